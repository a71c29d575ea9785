"""Reductions, running sums, and the largest of many."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS


def axes_of(x: Tensor, axes: list[int] | None, noop: int = 0) -> list[int]:
    """Axes to reduce: all where none are named, unless that means none (`noop`)."""
    return list(axes) if axes else [] if noop else list(range(x.ndim))


def is_empty(x: Tensor, dims: list[int]) -> bool:
    """Whether there is nothing to take the largest or smallest of."""
    return any(isinstance(x.shape[dim], int) and x.shape[dim] == 0 for dim in dims)


def emptied(x: Tensor, dims: list[int], keepdims: int, value: float) -> Tensor:
    """The reduction of an empty tensor: all `value`."""
    gone = {dim % x.ndim for dim in dims}
    shape = [1 if axis in gone else n for axis, n in enumerate(x.shape) if keepdims or axis not in gone]
    if x.dtype == torch.bool:
        return torch.full(shape, value > 0)
    if not x.is_floating_point():
        value = torch.iinfo(x.dtype).max if value > 0 else torch.iinfo(x.dtype).min
    return torch.full(shape, value, dtype=x.dtype)


@OPERATORS.op("ReduceSum", 13)
def reduce_sum(x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    dims = axes_of(x, axes, noop_with_empty_axes)
    return torch.sum(x, dims, bool(keepdims), dtype=x.dtype) if dims else x


@OPERATORS.op("ReduceSum", 1)
def reduce_sum_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_sum(x, axes, keepdims=keepdims)


@OPERATORS.op("ReduceMean", 18)
def reduce_mean(
    x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    dims = axes_of(x, axes, noop_with_empty_axes)
    if not dims:
        return x
    if not x.is_floating_point():
        return torch.mean(x.double(), dims, bool(keepdims)).to(x.dtype)
    return torch.mean(x, dims, bool(keepdims))


@OPERATORS.op("ReduceMean", 1)
def reduce_mean_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_mean(x, axes, keepdims=keepdims)


@OPERATORS.op("ReduceMax", 18)
def reduce_max(x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    dims = axes_of(x, axes, noop_with_empty_axes)
    if is_empty(x, dims):
        return emptied(x, dims, keepdims, float("-inf"))
    return torch.amax(x, dims, bool(keepdims)) if dims else x


@OPERATORS.op("ReduceMax", 1)
def reduce_max_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_max(x, axes, keepdims=keepdims)


@OPERATORS.op("ReduceMin", 18)
def reduce_min(x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    dims = axes_of(x, axes, noop_with_empty_axes)
    if is_empty(x, dims):
        return emptied(x, dims, keepdims, float("inf"))
    return torch.amin(x, dims, bool(keepdims)) if dims else x


@OPERATORS.op("ReduceMin", 1)
def reduce_min_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_min(x, axes, keepdims=keepdims)


@OPERATORS.op("ReduceProd", 18)
def reduce_product(
    x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    for dim in sorted((axis % x.ndim for axis in axes_of(x, axes, noop_with_empty_axes)), reverse=True):
        x = torch.prod(x, dim, bool(keepdims), dtype=x.dtype)
    return x


@OPERATORS.op("ReduceProd", 1)
def reduce_product_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_product(x, axes, keepdims=keepdims)


@OPERATORS.op("ReduceL1", 18)
def reduce_l1(x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return reduce_sum(x.abs(), axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes)


@OPERATORS.op("ReduceL1", 1)
def reduce_l1_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_l1(x, axes, keepdims=keepdims)


@OPERATORS.op("ReduceL2", 18)
def reduce_l2(x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    squares = reduce_sum_square(x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes)
    return torch.sqrt(squares).to(x.dtype)


@OPERATORS.op("ReduceL2", 1)
def reduce_l2_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_l2(x, axes, keepdims=keepdims)


@OPERATORS.op("ReduceLogSum", 18)
def reduce_log_sum(
    x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return torch.log(reduce_sum(x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes)).to(x.dtype)


@OPERATORS.op("ReduceLogSum", 1)
def reduce_log_sum_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_log_sum(x, axes, keepdims=keepdims)


@OPERATORS.op("ReduceLogSumExp", 18)
def reduce_log_sum_exp(
    x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    dims = axes_of(x, axes, noop_with_empty_axes)
    wide = x if x.is_floating_point() else x.double()
    return torch.logsumexp(wide, dims, bool(keepdims)).to(x.dtype) if dims else x


@OPERATORS.op("ReduceLogSumExp", 1)
def reduce_log_sum_exp_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_log_sum_exp(x, axes, keepdims=keepdims)


@OPERATORS.op("ReduceSumSquare", 18)
def reduce_sum_square(
    x: Tensor, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return reduce_sum(x * x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes)


@OPERATORS.op("ReduceSumSquare", 1)
def reduce_sum_square_1(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return reduce_sum_square(x, axes, keepdims=keepdims)


def last_or_first(x: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    """Index of the largest item along an axis; of equal ones the first or the last."""
    if last:
        return x.shape[axis] - 1 - torch.argmax(x.flip(axis), axis, bool(keepdims))
    return torch.argmax(x, axis, bool(keepdims))


@OPERATORS.op("ArgMax", 1)
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return last_or_first(x, axis, keepdims, select_last_index)


@OPERATORS.op("ArgMin", 1)
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if select_last_index:
        return x.shape[axis] - 1 - torch.argmin(x.flip(axis), axis, bool(keepdims))
    return torch.argmin(x, axis, bool(keepdims))


@OPERATORS.op("CumSum", 11)
def cumulative_sum(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    x = x.flip(axis) if reverse else x
    running = torch.cumsum(x, axis, dtype=x.dtype)
    running = running - x if exclusive else running
    return running.flip(axis) if reverse else running


@OPERATORS.op("CumProd", 26)
def cumulative_product(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    x = x.flip(axis) if reverse else x
    if exclusive:
        ones = torch.ones_like(x.narrow(axis, 0, 1))
        x = torch.cat([ones, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    running = torch.cumprod(x, axis, dtype=x.dtype)
    return running.flip(axis) if reverse else running


@OPERATORS.op("TopK", 10)
def top_k(x: Tensor, k: int, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """The k largest or smallest items and their indices; of equal ones the first, which torch.topk does not promise."""
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


@OPERATORS.op("TopK", 1)
def top_k_1(x: Tensor, *, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    return top_k(x, k, axis=axis)
