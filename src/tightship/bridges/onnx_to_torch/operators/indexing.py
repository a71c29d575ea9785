"""Looking items up: gather, slice, one-hot, and tensors whose length depends on values."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS


def positive(indices: Tensor, n: int) -> Tensor:
    """Indices from the end as indices from the start."""
    return torch.where(indices < 0, indices + n, indices)


@OPERATORS.op("Gather", 1)
def gather(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = axis + data.ndim if axis < 0 else axis
    flat = positive(indices.long(), data.shape[axis]).reshape(-1)
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    return data.index_select(axis, flat).reshape(shape)


@OPERATORS.op("GatherElements", 11)
def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(data, axis, positive(indices.long(), data.shape[axis]))


@OPERATORS.op("GatherND", 11)
def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    depth = indices.shape[-1]
    indices = indices.long()
    keys = [positive(indices[..., k], data.shape[batch_dims + k]) for k in range(depth)]
    if batch_dims:
        spread = (1,) * (indices.ndim - 1 - batch_dims)
        grids = torch.meshgrid(*(torch.arange(n) for n in data.shape[:batch_dims]), indexing="ij")
        keys = [grid.reshape(*grid.shape, *spread).expand(indices.shape[:-1]) for grid in grids] + keys
    return data[tuple(keys)]


@OPERATORS.op("Slice", 10)
def slice_of(
    x: Tensor,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> Tensor:
    axes = axes if axes is not None else list(range(len(starts)))
    for position, axis in enumerate(axes):
        x = slice_axis(x, axis % x.ndim, starts[position], ends[position], steps[position] if steps else 1)
    return x


def slice_axis(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """One axis from `start` to before `end`; ends beyond the axis are cut off, negative steps go backwards."""
    if step > 0:
        return x[(slice(None),) * axis + (slice(start, end, step),)]
    n = x.shape[axis]
    if isinstance(start, int) and start in (-1, 2**63 - 1, 2**31 - 1) and end < -n:
        return x.flip(axis)[(slice(None),) * axis + (slice(None, None, -step),)]
    index = torch.tensor(list(range(*slice(start, None if end < -n else end, step).indices(n))), dtype=torch.int64)
    return x.index_select(axis, index)


@OPERATORS.op("Slice", 1)
def slice_of_1(x: Tensor, *, starts: list[int], ends: list[int], axes: list[int] | None = None) -> Tensor:
    return slice_of(x, starts, ends, axes)


@OPERATORS.op("OneHot", 9)
def one_hot(indices: Tensor, depth: int, values: Tensor, *, axis: int = -1) -> Tensor:
    """`values[1]` where the index is, `values[0]` elsewhere; indices beyond the depth are nowhere."""
    depth = int(depth)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    indices = indices.long()
    indices = torch.where(indices < 0, indices + depth, indices).unsqueeze(axis)
    classes = torch.arange(depth).reshape([-1 if k == axis else 1 for k in range(indices.ndim)])
    return torch.where(indices == classes, values[1], values[0])


@OPERATORS.op("NonZero", 9)
def non_zero(x: Tensor) -> Tensor:
    """Indices `[rank, n]` of what is not zero."""
    return torch.nonzero(x).t()


@OPERATORS.op("Compress", 9)
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, torch.nonzero(condition.bool()).reshape(-1))


@OPERATORS.op("Unique", 11)
def unique(x: Tensor, *, axis: int | None = None, sorted: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distinct items, the index of the first of each, where each item went, and how many there are."""
    values, inverse, counts = torch.unique(x, dim=axis, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    n = counts.shape[0]
    first = torch.full((n,), inverse.shape[0]).scatter_reduce(
        0, inverse, torch.arange(inverse.shape[0]), "amin", include_self=True
    )
    if not sorted:
        order = torch.argsort(first)
        values, first, counts = values.index_select(axis or 0, order), first[order], counts[order]
        inverse = torch.argsort(order)[inverse]
    return values, first, inverse, counts


@OPERATORS.op("ReverseSequence", 10)
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Reverse the first `lengths[b]` steps of each item of the batch; the rest stays."""
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(moved.shape[1])
    ends = lengths.unsqueeze(1)
    index = torch.where(steps < ends, ends - 1 - steps, steps)
    index = index.reshape(*index.shape, *(1,) * (moved.ndim - 2)).expand(moved.shape)
    return torch.gather(moved, 1, index).movedim((0, 1), (batch_axis, time_axis))
