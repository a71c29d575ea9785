"""Finished steps by content: what was computed once from the same things is not computed again.

One folder holds a file or a folder per step, named by the SHA-256 of all that the result depends on. Entries appear
whole (`atomic.writing`), so a run killed at any point continues from its last finished step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tightship.core import atomic

__all__ = ["Store"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Store:
    """The work folder. Entries written before `since` (seconds since the epoch) are computed afresh and overwritten."""

    root: Path
    since: float = 0.0

    def open(self) -> Store:
        """Create the folder and sweep what dead processes left; return self."""
        self.root.mkdir(parents=True, exist_ok=True)
        atomic.sweep(self.root)
        return self

    def value(self, step: str, parts: object, kind: type[Value], compute: Callable[[], Value]) -> Value:
        """Return the stored value of this step, or compute and store it. `kind` is a dataclass or plain type."""
        path = self._path(step, parts, ".json")
        if self._has(path):
            return msgspec.json.decode(path.read_bytes(), type=kind)
        value = compute()
        atomic.write_bytes(path, msgspec.json.encode(value))
        return value

    def file(self, step: str, parts: object, name: str, write: Callable[[Path], Any]) -> Path:
        """Return the stored file called `name` of this step; `write` makes it (and what lies beside it) if absent."""
        folder = self._path(step, parts, "")
        if not self._has(folder):
            with atomic.replace_folder(folder, frozenset(child.name for child in folder.glob("*"))) as temporary:
                write(temporary / name)
        return folder / name

    def _has(self, path: Path) -> bool:
        return path.exists() and path.stat().st_mtime >= self.since

    def _path(self, step: str, parts: object, suffix: str) -> Path:
        key = hashlib.sha256(msgspec.json.encode([step, parts], order="deterministic")).hexdigest()
        return self.root / f"{step}-{key[:32]}{suffix}"
