"""An ordered tuple of passes, to and from TOML, and the target it was made for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tightship.core.passes import Pass
from tightship.core.target import Target
from tightship.errors import UsageError, nearest

__all__ = ["Recipe"]

Built = TypeVar("Built")


@dataclass(frozen=True)
class Recipe:
    """Passes in the order they are applied, and where the result is meant to run (None: not said)."""

    passes: tuple[Pass, ...] = ()
    target: Target | None = None

    @property
    def lossless(self) -> bool:
        """Whether every pass keeps the outputs up to float rounding."""
        return all(entry.lossless for entry in self.passes)

    def __str__(self) -> str:
        return " + ".join(str(entry) for entry in self.passes) or "as it is"

    def to_toml(self) -> str:
        """Write the recipe as TOML: a `[target]` table and one `[[passes]]` table per pass."""
        import tomli_w

        document: dict[str, Any] = {}
        if self.target is not None:
            document["target"] = asdict(self.target)
        document["passes"] = [{"name": entry.name, **entry.step.parameters} for entry in self.passes]
        return tomli_w.dumps(document)

    @classmethod
    def from_toml(cls, text: str, table: Mapping[str, type[Pass]], source: str = "recipe") -> Recipe:
        """Read what `to_toml` wrote. Raises `UsageError` naming the entry, the field and the nearest known name."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{source}: not a TOML file: {error}") from error
        unknown = set(document) - {"target", "passes"}
        if unknown:
            name = sorted(unknown)[0]
            raise UsageError(f"{source}: unknown table {name!r}{nearest(name, ('target', 'passes'))}")
        target = _build(Target, document["target"], f"{source}, [target]") if "target" in document else None
        entries = document.get("passes", [])
        if not isinstance(entries, list):
            raise UsageError(f"{source}: passes must be written as [[passes]] tables")
        return cls(tuple(_pass(entry, table, source) for entry in entries), target)

    @classmethod
    def read(cls, path: Path, table: Mapping[str, type[Pass]]) -> Recipe:
        """Read a recipe file. Raises `UsageError` where it is absent or wrong."""
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"), table, str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read recipe {path}: {error}") from error


def _pass(entry: Mapping[str, Any], table: Mapping[str, type[Pass]], source: str) -> Pass:
    name = entry.get("name")
    if not isinstance(name, str):
        raise UsageError(f"{source}: a [[passes]] table without a name; known passes: {', '.join(table)}")
    values = {key: value for key, value in entry.items() if key != "name"}
    return _build(table[name], values, f"{source}, pass {name}")


def _build(kind: type[Built], values: Mapping[str, Any], where: str) -> Built:
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            hint = nearest(key, known)
            raise UsageError(f"{where}: unknown field {key!r}{hint}; known: {', '.join(known) or 'none'}")
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from error
