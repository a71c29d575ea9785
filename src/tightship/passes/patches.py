"""What an operator multiplies its weight with, as rows: for a convolution the patches that its kernel sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tightship.passes.editing import known_constant

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Reading", "reading"]

_MOST_ELEMENTS = 2**21
"""Of the rows of a batch at most so many numbers are taken, at random places that do not depend on the values."""


@dataclass(frozen=True)
class Reading:
    """How `y[rows, groups, N] = x[rows, groups, K] @ weight[groups, N, K]` is hidden in an operator.

    `kernel` is empty for a matrix product. `transposed` says that the weight is stored `[K, N]`.
    """

    groups: int
    transposed: bool
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()

    def weight(self, stored: np.ndarray) -> np.ndarray:
        """Return a weight as it is stored as `[groups, N, K]`."""
        if not self.kernel:
            return (stored.T if self.transposed else stored)[None]
        return stored.reshape(self.groups, len(stored) // self.groups, -1)

    def stored(self, weight: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return what `weight` made `[groups, N, K]` of, as it is stored."""
        if not self.kernel:
            return np.ascontiguousarray(weight[0].T if self.transposed else weight[0])
        return weight.reshape(like.shape)

    def rows(self, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return `[rows, groups, K]` of an input, all or a random choice; the same choice for the same generator."""
        if not self.kernel:
            rows = x.reshape(-1, x.shape[-1])
            return rows[_chosen(len(rows), rows.shape[1], random), None]
        windows = self._windows(x)
        rank = len(self.kernel)
        places = (len(x), *windows.shape[2 : 2 + rank])
        chosen = _chosen(math.prod(places), x.shape[1] * math.prod(self.kernel), random)
        item, *position = np.unravel_index(chosen, places)
        taken: np.ndarray = np.moveaxis(windows, 1, 1 + rank)[(item, *position)]
        return taken.reshape(len(chosen), self.groups, -1)

    def _windows(self, x: np.ndarray) -> np.ndarray:
        """Return a view `[items, channels, *positions, *kernel]`."""
        rank = len(self.kernel)
        padded = np.pad(x, ((0, 0), (0, 0), *((self.pads[i], self.pads[i + rank]) for i in range(rank))))
        spans = tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
        steps = (*(slice(None, None, step) for step in self.strides), *(slice(None, None, d) for d in self.dilations))
        return windows[(slice(None), slice(None), *steps)]


def reading(node: onnx_ir.Node) -> Reading | None:
    """Return how an operator with a constant weight (its second input) reads; None where that is not known here."""
    shape = tuple(known_constant(node.inputs[1]).shape)
    if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0):
        return Reading(1, transposed=not node.attributes.get_int("transB", 0))
    if node.op_type == "MatMul" and len(shape) == 2:
        return Reading(1, transposed=True)
    if node.op_type != "Conv" or node.attributes.get_string("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return None
    kernel = shape[2:]
    ones, zeros = (1,) * len(kernel), (0,) * (2 * len(kernel))
    return Reading(
        node.attributes.get_int("group", 1),
        False,
        kernel,
        tuple(node.attributes.get_ints("strides", ones)),
        tuple(node.attributes.get_ints("dilations", ones)),
        tuple(node.attributes.get_ints("pads", zeros)),
    )


def _chosen(n_rows: int, row_elements: int, random: np.random.Generator) -> np.ndarray:
    most = max(1, _MOST_ELEMENTS // row_elements)
    return np.arange(n_rows) if n_rows <= most else random.choice(n_rows, most, replace=False)
