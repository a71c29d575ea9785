"""Named input arrays in batches, with labels where there are some.

A Dataset is a recipe for iterating, not a pile of arrays: it can be gone through many times, cut to any batch size and
split by item, and only one batch is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tightship.errors import DatasetError

__all__ = ["Batch", "Dataset"]


@dataclass(frozen=True)
class Batch:
    """Inputs by name, each with the items along axis 0, and labels `[items, ...]` or None."""

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def pick(self, index: slice | np.ndarray) -> Batch:
        """Return the items at `index`."""
        labels = None if self.labels is None else self.labels[index]
        return Batch({name: array[index] for name, array in self.inputs.items()}, labels)


@dataclass(frozen=True)
class Dataset:
    """A named, digestible source of batches.

    `open` starts a new iteration each time it is called and must yield the same items in the same order.
    `digest` identifies the content (hex); `generated` says that no person supplied the data.
    """

    name: str
    digest: str
    open: Callable[[], Iterator[Batch]]
    generated: bool = False

    @classmethod
    def from_arrays(
        cls,
        name: str,
        digest: str,
        inputs: Mapping[str, np.ndarray],
        labels: np.ndarray | None = None,
        generated: bool = False,
    ) -> Dataset:
        """Wrap arrays that are in memory. Raises `DatasetError` where lengths differ or nothing is inside."""
        lengths = {key: len(array) if array.ndim else 0 for key, array in inputs.items()}
        if labels is not None:
            lengths["labels"] = len(labels)
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            found = ", ".join(f"{key} {length}" for key, length in lengths.items()) or "no arrays"
            raise DatasetError(f"{name}: expected arrays of one and the same length above zero, found {found}")
        whole = Batch(inputs, labels)
        return cls(name, digest, lambda: iter((whole,)), generated)

    @cached_property
    def n_items(self) -> int:
        """Number of items; counting goes through the data once."""
        return sum(len(batch) for batch in self.open())

    @cached_property
    def labelled(self) -> bool:
        """Whether the first batch has labels."""
        return next(self.open()).labels is not None

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield batches of `size` items; the last may be smaller."""
        held: Batch | None = None
        for batch in self.open():
            held = batch if held is None else _join(held, batch)
            n_whole = len(held) // size * size
            for start in range(0, n_whole, size):
                yield held.pick(slice(start, start + size))
            held = held.pick(slice(n_whole, None)) if n_whole < len(held) else None
        if held is not None:
            yield held

    def select(self, indices: np.ndarray, what: str) -> Dataset:
        """Return the dataset of the items at `indices`, in the order of the data."""
        mask = np.zeros(self.n_items, dtype=bool)
        mask[indices] = True

        def opened() -> Iterator[Batch]:
            start = 0
            for batch in self.open():
                keep = mask[start : start + len(batch)]
                start += len(batch)
                if keep.any():
                    yield batch.pick(keep)

        return replace(self, digest=f"{self.digest}/{what}", open=opened)

    def split(self, n_first: int, seed: int) -> tuple[Dataset, Dataset]:
        """Split at random into `n_first` items and the rest, without an item in common."""
        order = np.random.default_rng(seed).permutation(self.n_items)
        what = f"{n_first}-of-{self.n_items}-seed-{seed}"
        return self.select(order[:n_first], f"first-{what}"), self.select(order[n_first:], f"rest-{what}")

    def mapped(self, function: Callable[[Batch], Batch]) -> Dataset:
        """Return the dataset with `function` applied to every batch."""
        return replace(self, open=lambda: map(function, self.open()))


def _join(first: Batch, second: Batch) -> Batch:
    labels = None
    if first.labels is not None and second.labels is not None:
        labels = np.concatenate([first.labels, second.labels])
    inputs = {name: np.concatenate([array, second.inputs[name]]) for name, array in first.inputs.items()}
    return Batch(inputs, labels)
