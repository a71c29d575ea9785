"""Finished steps by content: what was computed once from the same things is not computed again.

One folder holds a file or a folder per step, named by the SHA-256 of all that the result depends on. Entries appear
whole (`atomic.writing`), so a run killed at any point continues from its last finished step.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from tightship.core import atomic

__all__ = ["Arrays", "Store"]

Value = TypeVar("Value")


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` file by name, each read anew when it is asked for, so that none is kept in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with np.load(path) as file:
            self._names = tuple(file.files)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        with np.load(self._path) as file:
            array: np.ndarray = file[name]
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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

    def arrays(self, step: str, parts: object, compute: Callable[[], Mapping[str, np.ndarray]]) -> Arrays:
        """Return the stored arrays of this step, or compute and store them; each is read when it is asked for."""
        path = self._path(step, parts, ".npz")
        if not self._has(path):
            with atomic.writing(path) as temporary:
                _write_arrays(temporary, compute())
        return Arrays(path)

    def _has(self, path: Path) -> bool:
        return path.exists() and path.stat().st_mtime >= self.since

    def _path(self, step: str, parts: object, suffix: str) -> Path:
        key = hashlib.sha256(msgspec.json.encode([step, parts], order="deterministic")).hexdigest()
        return self.root / f"{step}-{key[:32]}{suffix}"


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an `.npz` file one array at a time, whatever computes them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
