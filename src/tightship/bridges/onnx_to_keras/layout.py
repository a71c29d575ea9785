"""Orders of axes: which one each operator needs, and tensors brought into it with as few transposes as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tightship.bridges.onnx_to_keras.values import Axes, Tensor, Unsupported

if TYPE_CHECKING:
    from keras import KerasTensor

__all__ = [
    "arrange",
    "channels_last",
    "image",
    "image_axes",
    "like",
    "normal",
    "part",
    "permuted",
    "plain",
    "positions",
    "straight_axes",
    "without",
]


def straight_axes(rank: int) -> Axes:
    return tuple(range(rank))


def image_axes(rank: int) -> Axes:
    """Axes of a channels-last tensor whose graph value is `[N, C, spatial...]`: (0, 3, 1, 2) for an image."""
    return (0, rank - 1, *range(1, rank - 1)) if rank > 2 else straight_axes(rank)


def positions(axes: Axes) -> Axes:
    """Return the inverse: which logical axis lies at each physical place."""
    return tuple(int(place) for place in np.argsort(axes))


def arrange(tensor: Tensor, axes: Axes) -> KerasTensor:
    """Return the Keras tensor with its axes in this order; each order is made once per tensor.

    Axes of length 1 may move freely: where only those move, a reshape does it.
    """
    if axes == tensor.axes:
        return tensor.value
    order = tuple(tensor.axes[logical] for logical in positions(axes))
    if order not in tensor.arranged:
        from keras import ops

        lengths = [tensor.value.shape[place] for place in order]
        if _keeps_memory_order(order, tensor.value.shape) and lengths.count(None) <= 1:
            shape = tuple(-1 if length is None else length for length in lengths)
            tensor.arranged[order] = ops.reshape(tensor.value, shape)
        else:
            tensor.arranged[order] = ops.transpose(tensor.value, order)
    return tensor.arranged[order]


def _keeps_memory_order(order: Sequence[int], shape: Sequence[int | None]) -> bool:
    moved = [place for place in order if shape[place] != 1]
    return moved == sorted(moved)


def plain(tensor: Tensor) -> KerasTensor:
    """Return the Keras tensor with the axes in the graph's order."""
    return arrange(tensor, straight_axes(tensor.rank))


def channels_last(tensor: Tensor) -> KerasTensor:
    """Return the Keras tensor as `[N, spatial..., C]`."""
    return arrange(tensor, image_axes(tensor.rank))


def part(value: KerasTensor, axis: int, wanted: slice | int) -> KerasTensor:
    """`value` indexed along one axis, with no `...`: a layer that is written to an .h5 file cannot hold one."""
    return value[(slice(None),) * normal(axis, len(value.shape)) + (wanted,)]


def like(value: KerasTensor, axes: Axes | None = None) -> Tensor:
    """Wrap a Keras tensor; without axes it lies in the graph's order."""
    return Tensor(value, straight_axes(len(value.shape)) if axes is None else axes)


def image(value: KerasTensor) -> Tensor:
    """Wrap a channels-last Keras tensor."""
    return Tensor(value, image_axes(len(value.shape)))


def permuted(tensor: Tensor, perm: Sequence[int]) -> Tensor:
    """Transpose the graph's value: only the note of where the axes lie changes."""
    return Tensor(tensor.value, tuple(tensor.axes[axis] for axis in perm), tensor.arranged)


def normal(axis: int, rank: int) -> int:
    """Return a non-negative axis. Raises `Unsupported` where the rank has no such axis."""
    if not -rank <= axis < max(rank, 1):
        raise Unsupported(f"axis {axis} of a tensor of rank {rank}")
    return axis + rank if axis < 0 else axis


def without(axes: Axes, removed: Sequence[int]) -> Axes:
    """Axes after the logical axes `removed` are gone from the Keras tensor as well."""
    kept = [place for logical, place in enumerate(axes) if logical not in removed]
    return tuple(sorted(kept).index(place) for place in kept)
