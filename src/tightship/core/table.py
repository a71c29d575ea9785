"""A table of variants by name: formats, engines, passes and metrics are each one such table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from tightship.errors import UsageError, nearest

__all__ = ["Table"]

Row = TypeVar("Row")


class Table(Mapping[str, Row], Generic[Row]):
    """An immutable mapping whose look-up failure names the kind of thing, the nearest known name and all of them.

    Raises `UsageError` (also a `KeyError` by meaning) for an unknown name.
    """

    def __init__(self, kind: str, rows: Mapping[str, Row]) -> None:
        self.kind = kind
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> Row:
        if name not in self._rows:
            known = ", ".join(self._rows)
            raise UsageError(f"unknown {self.kind} {name!r}{nearest(name, self._rows)}; known: {known}")
        return self._rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
