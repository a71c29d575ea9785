"""How long work tells a person that it goes on. Work receives a `Progress`; only the command line draws one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Advance", "Progress"]

Advance = Callable[[int], None]
"""Call it with the number of units done since the last call."""


class Progress(Protocol):
    """Receives the steps of long work."""

    def step(self, description: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open one step of `total` units (None: unknown); the block is given a function that advances it."""
        ...

    def note(self, text: str) -> None:
        """Tell the person one finding."""
        ...


class _Silent:
    @contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda _units: None

    def note(self, text: str) -> None:
        return None


SILENT: Progress = _Silent()
