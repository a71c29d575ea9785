"""What a metric says of one model over a dataset, item by item. Plain values: goes to JSON and back unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

__all__ = ["WORST", "Column", "Kind", "Scores", "bounded"]

Kind = Literal["right", "real", "whole"]
"""Items are right or wrong (1 or 0), have a real score, or only the whole set has one."""

WORST = -1e6
"""Score of outputs that are not numbers, where a metric has no worst score of its own. Finite, for JSON."""


@dataclass(frozen=True)
class Column:
    """An array [items, ...] as plain values."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> Column:
        """Take the bytes of an array of numbers or texts; bfloat16 and smaller floats become float32."""
        if array.dtype.kind in "OV":
            array = array.astype(np.float32 if array.dtype.kind == "V" else np.str_)
        return cls(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())

    @property
    def array(self) -> np.ndarray:
        """The array, read-only."""
        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Scores:
    """Scores of `n_items` items under `metric`; higher is better.

    `items` holds one score per item [n_items]; of kind `whole` it is empty, and `outputs` and `labels` hold what the
    metric is computed from. `fidelity` says that the items were compared with the source's outputs, and
    `n_not_finite` how many items had outputs that are not numbers (they count as wrong).
    """

    metric: str
    kind: Kind
    n_items: int
    items: Column
    fidelity: bool = False
    n_not_finite: int = 0
    outputs: Mapping[str, Column] = field(default_factory=dict)
    labels: Column | None = None

    @property
    def values(self) -> np.ndarray:
        """Score of each item [n_items]; empty of kind `whole`."""
        return self.items.array


def bounded(values: np.ndarray) -> np.ndarray:
    """Return scores [n] as float64 with NaN and all below `WORST` set to it."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.clip(np.where(np.isnan(numbers), WORST, numbers), WORST, -WORST)
