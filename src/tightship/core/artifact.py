"""A model as it lies on disk, and the digest that tells one from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Artifact", "file_digest"]


@dataclass(frozen=True)
class Artifact:
    """A path and its format's name; `companions` are files the model needs beside it (external data, weights).

    `entry` is `package.module:function` where the artifact is a function that builds the model; `path` is then the
    file of that module.
    """

    path: Path
    format: str
    companions: tuple[Path, ...] = ()
    entry: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the artifact, sorted; a folder gives all files below it."""
        return tuple(sorted(_expand(self.path))) + self.companions

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, companions included."""
        return sum(path.stat().st_size for path in self.files)

    def digest(self) -> str:
        """SHA-256 over the contents of all files and the entry, as hex."""
        whole = hashlib.sha256(self.entry.encode())
        for path in self.files:
            whole.update(file_digest(path).encode())
        return whole.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of one file as hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _expand(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (child for child in path.rglob("*") if child.is_file())
    else:
        yield path
