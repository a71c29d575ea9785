"""From a Dataset to what a session is fed: batches of the size that the model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tightship.core.dataset import Batch, Dataset
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.errors import DatasetMismatch

__all__ = ["Feed", "batch_size", "feeds"]


@dataclass(frozen=True)
class Feed:
    """Arrays ready for `Session.run`, of which the first `n_items` rows are data and the rest padding."""

    arrays: Arrays
    n_items: int
    labels: np.ndarray | None

    def unpad(self, outputs: Arrays) -> Arrays:
        """Drop the rows of padding from arrays whose axis 0 is the batch."""
        padded = len(next(iter(self.arrays.values())))
        if padded == self.n_items:
            return outputs
        return {
            name: array[: self.n_items] if array.ndim and len(array) == padded else array
            for name, array in outputs.items()
        }


def batch_size(specs: Sequence[TensorSpec], preferred: int = 32) -> int:
    """Return the batch that the inputs are fixed to, or `preferred` where any is taken.

    Raises `DatasetMismatch` where the inputs are fixed to different lengths of axis 0.
    """
    fixed = {spec.batch for spec in specs if spec.batch is not None}
    if len(fixed) > 1:
        found = ", ".join(str(spec) for spec in specs)
        raise DatasetMismatch(f"the inputs have different lengths of axis 0, so no item can be cut from them: {found}")
    return fixed.pop() if fixed else preferred


def feeds(dataset: Dataset, specs: Sequence[TensorSpec], preferred: int = 32) -> Iterator[Feed]:
    """Yield the dataset in the batches the inputs take; a last short batch is filled by repeating its last item."""
    size = batch_size(specs, preferred)
    pads = any(spec.batch is not None for spec in specs)
    for batch in dataset.batches(size):
        whole = _padded(batch, size) if pads and len(batch) < size else batch
        arrays = {spec.name: _shaped(whole.inputs[spec.name], spec) for spec in specs}
        yield Feed(arrays, len(batch), batch.labels)


def _padded(batch: Batch, size: int) -> Batch:
    return batch.pick(np.minimum(np.arange(size), len(batch) - 1))


def _shaped(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    # A scalar input is one item per batch; its axis of items is taken away.
    return np.ascontiguousarray(array.reshape(()) if not spec.shape and array.size == 1 else array)
