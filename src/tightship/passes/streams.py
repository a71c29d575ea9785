"""What lives at one place of a graph, for every batch of the calibration data: on disk, one batch in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tightship.core.session import Arrays, Session

__all__ = ["Stream"]


class Stream:
    """Batches of named arrays in the files of a folder. It is read many times and written once."""

    def __init__(self, folder: Path, n_batches: int) -> None:
        self.folder = folder
        self.n_batches = n_batches

    @classmethod
    def write(cls, folder: Path, batches: Iterable[Arrays]) -> Stream:
        """Write the batches into a new folder."""
        folder.mkdir(parents=True)
        count = 0
        for batch in batches:
            np.savez(_file(folder, count), **{f"_{name}": array for name, array in batch.items()})  # type: ignore[arg-type]
            count += 1
        return cls(folder, count)

    def __iter__(self) -> Iterator[Arrays]:
        return (self.batch(index) for index in range(self.n_batches))

    def batch(self, index: int) -> Arrays:
        """Read one batch."""
        with np.load(_file(self.folder, index)) as file:
            return {name[1:]: file[name] for name in file.files}

    def through(self, session: Session | None, gives: Sequence[str], folder: Path) -> Stream:
        """Run every batch and write what lives behind: values that `session` computes, others carried over.

        `session` is None where nothing is computed. The old files are removed.
        """
        moved = self.seen(session, gives, folder)
        shutil.rmtree(self.folder)
        return moved

    def seen(self, session: Session | None, gives: Sequence[str], folder: Path) -> Stream:
        """Do the same as `through`, the old files staying."""
        return Stream.write(folder, (_moved(batch, session, gives) for batch in self))


def _moved(batch: Arrays, session: Session | None, gives: Sequence[str]) -> Arrays:
    if session is None:
        return {name: batch[name] for name in gives}
    made = session.run({spec.name: batch[spec.name] for spec in session.inputs})
    return {name: made[name] if name in made else batch[name] for name in gives}


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index}.npz"
