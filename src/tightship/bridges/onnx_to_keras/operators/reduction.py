"""Reductions over axes, which are looked up where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import like, normal, plain, without
from tightship.bridges.onnx_to_keras.operators.arithmetic import UNSIGNED, kept
from tightship.bridges.onnx_to_keras.shapes import Lengths, integers
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported

op = OPERATORS.op

Reduce = Callable[..., Any]


def _norm(value: Any, axis: Any, keepdims: bool) -> Any:
    return ops.sqrt(ops.sum(ops.square(value), axis=axis, keepdims=keepdims))


def _sum_of_squares(value: Any, axis: Any, keepdims: bool) -> Any:
    return ops.sum(ops.square(value), axis=axis, keepdims=keepdims)


def _absolute_sum(value: Any, axis: Any, keepdims: bool) -> Any:
    return ops.sum(ops.abs(value), axis=axis, keepdims=keepdims)


def _log_sum(value: Any, axis: Any, keepdims: bool) -> Any:
    return ops.log(ops.sum(value, axis=axis, keepdims=keepdims))


def _log_sum_exp(value: Any, axis: Any, keepdims: bool) -> Any:
    return ops.logsumexp(value, axis=axis, keepdims=keepdims)


def reduced(x: Tensor, axes: Sequence[int] | None, keepdims: int, function: Reduce, wide: bool = True) -> Tensor:
    """Reduce over logical axes, all of them where none are given."""
    where = sorted({normal(axis, x.rank) for axis in axes}) if axes else list(range(x.rank))
    value = ops.cast(x.value, UNSIGNED[x.dtype]) if wide and x.dtype in UNSIGNED else x.value
    result = kept(x.dtype, function(value, axis=tuple(x.axes[axis] for axis in where), keepdims=bool(keepdims)))
    return Tensor(result, x.axes if keepdims else without(x.axes, where))


def _entries(name: str, function: Reduce, axes_since: int) -> None:
    """Enter a reduction with axes as an input from `axes_since` on, as an attribute before."""

    def by_input(
        x: Tensor, axes: Lengths | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0, build: Build
    ) -> Tensor:
        where = () if axes is None else integers(axes, "its axes")
        if not where and noop_with_empty_axes:
            if name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
                return x
            return Tensor(kept(x.dtype, function(ops.expand_dims(x.value, 0), axis=(0,), keepdims=False)), x.axes)
        return _checked(x, where, keepdims)

    def by_attribute(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
        return _checked(x, axes, keepdims)

    def _checked(x: Tensor, axes: Sequence[int] | None, keepdims: int) -> Tensor:
        if x.dtype == "bool":
            either = ops.any if name == "ReduceMax" else ops.all
            return reduced(x, axes, keepdims, either, wide=False)
        return reduced(x, axes, keepdims, function)

    OPERATORS.rows((name, axes_since, by_input), (name, 1, by_attribute))


_entries("ReduceSum", ops.sum, 13)
_entries("ReduceMean", ops.mean, 18)
_entries("ReduceMax", ops.max, 18)
_entries("ReduceMin", ops.min, 18)
_entries("ReduceProd", ops.prod, 18)
_entries("ReduceL1", _absolute_sum, 18)
_entries("ReduceL2", _norm, 18)
_entries("ReduceSumSquare", _sum_of_squares, 18)
_entries("ReduceLogSum", _log_sum, 18)
_entries("ReduceLogSumExp", _log_sum_exp, 18)


def _best(function: Callable[..., Any]) -> Callable[..., Tensor]:
    def apply(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        logical = normal(axis, x.rank)
        place = x.axes[logical]
        value = ops.cast(x.value, UNSIGNED[x.dtype]) if x.dtype in UNSIGNED else x.value
        if select_last_index:
            length = value.shape[place]
            if length is None:
                raise Unsupported("the last of equals along a free axis; fix the input shapes")
            best = ops.subtract(length - 1, function(ops.flip(value, axis=place), axis=place, keepdims=bool(keepdims)))
        else:
            best = function(value, axis=place, keepdims=bool(keepdims))
        return Tensor(ops.cast(best, "int64"), x.axes if keepdims else without(x.axes, [logical]))

    return apply


OPERATORS.rows(("ArgMax", 1, _best(ops.argmax)), ("ArgMin", 1, _best(ops.argmin)))


def _running(function: Callable[..., Any], neutral: int) -> Callable[..., Tensor]:
    """A running sum or product, possibly from the end, possibly without the element itself."""

    def apply(x: Tensor, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
        place = x.axes[normal(integers(axis, "its axis")[0], x.rank)]
        value = ops.flip(x.value, axis=place) if reverse else x.value
        value = kept(x.dtype, function(value, axis=place))
        if exclusive:
            widths = [(1, 0) if axis == place else (0, 0) for axis in range(x.rank)]
            key = tuple(slice(None, -1) if axis == place else slice(None) for axis in range(x.rank))
            value = ops.pad(value, widths, constant_values=neutral)[key]
        return Tensor(ops.flip(value, axis=place) if reverse else value, x.axes)

    return apply


OPERATORS.rows(("CumSum", 11, _running(ops.cumsum, 0)), ("CumProd", 26, _running(ops.cumprod, 1)))


@op("TopK", since=10)
def top_k(x: Tensor, k: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    logical = normal(axis, x.rank)
    count = integers(k, "its k")[0]
    order = (*(place for place in range(x.rank) if place != logical), logical)
    back = tuple(int(place) for place in np.argsort(order))
    value = plain(x) if logical == x.rank - 1 else ops.transpose(plain(x), order)
    unsigned = UNSIGNED.get(x.dtype)
    value = ops.cast(value, unsigned) if unsigned else value
    best, where = ops.top_k(value if largest else ops.negative(value), count, sorted=True)
    best = kept(x.dtype, best if largest else ops.negative(best))
    results = (best, ops.cast(where, "int64"))
    first, second = (like(result if logical == x.rank - 1 else ops.transpose(result, back)) for result in results)
    return first, second


@op("TopK", since=1)
def top_k_attribute(x: Tensor, *, axis: int = -1, k: int) -> tuple[Tensor, Tensor]:
    return top_k(x, np.array([k]), axis=axis)
