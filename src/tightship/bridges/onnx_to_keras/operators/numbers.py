"""Shape arithmetic: what operators do to lengths that are known while converting, or free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tightship.bridges.onnx_to_keras.shapes import (
    COMPARISONS,
    added,
    chosen,
    combined,
    divided,
    lengths,
    multiplied,
    subtracted,
)
from tightship.bridges.onnx_to_keras.table import SHAPES
from tightship.bridges.onnx_to_keras.values import Number, Numbers

op = SHAPES.op


def _elementwise(function: Callable[[Number, Number], Any]) -> Callable[[Any, Any], Any]:
    def compute(a: Any, b: Any) -> Any:
        return combined(a, b, function)

    return compute


SHAPES.rows(
    ("Add", 7, _elementwise(added)),
    ("Sub", 7, _elementwise(subtracted)),
    ("Mul", 7, _elementwise(multiplied)),
    ("Div", 7, _elementwise(divided)),
    *((name, 7, _elementwise(function)) for name, function in COMPARISONS.items()),
    ("Where", 9, chosen),
)


@op("Identity")
def identity(x: Any) -> Any:
    return x


@op("Cast", since=6)
def cast(x: Numbers, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    import onnx_ir

    dtype = onnx_ir.DataType(to)
    return Numbers(x.values, x.scalar, str(dtype.numpy())) if dtype.name in ("INT32", "INT64") else NotImplemented


@op("Gather")
def gather(x: Any, indices: Any, *, axis: int = 0) -> Any:
    if not isinstance(x, Numbers) or not isinstance(indices, np.ndarray) or x.scalar or indices.ndim > 1:
        return NotImplemented
    picked = tuple(x.values[index] for index in indices.reshape(-1).tolist())
    return Numbers(picked, indices.ndim == 0, x.dtype).simplified()


@op("Slice", since=10)
def slice_numbers(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    bounds = (starts, ends, np.ones(1, np.int64) if steps is None else steps)
    if not isinstance(x, Numbers) or not all(isinstance(bound, np.ndarray) for bound in bounds):
        return NotImplemented
    return Numbers(x.values[slice(*(int(bound.reshape(-1)[0]) for bound in bounds))], False, x.dtype).simplified()


@op("Slice", since=1)
def slice_attributes(x: Numbers, *, starts: list[int], ends: list[int], axes: list[int] | None = None) -> Any:
    return Numbers(x.values[starts[0] : ends[0]], False, x.dtype).simplified()


@op("Concat")
def concat(*inputs: Any, axis: int = 0) -> Any:
    if any(len(part.shape) != 1 for part in inputs):
        return NotImplemented
    values = tuple(value for part in inputs for value in lengths(part, "a number"))
    return Numbers(values, False, str(inputs[0].dtype)).simplified()


@op("Unsqueeze")
def unsqueeze(x: Numbers, axes_input: Any = None, *, axes: list[int] | None = None) -> Any:
    return Numbers(x.values, False, x.dtype) if x.scalar else NotImplemented


@op("Squeeze")
def squeeze(x: Numbers, axes_input: Any = None, *, axes: list[int] | None = None) -> Any:
    return Numbers(x.values, True, x.dtype) if len(x.values) == 1 else NotImplemented


@op("Reshape", since=5)
def reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    if not isinstance(x, Numbers) or not isinstance(shape, np.ndarray) or shape.size > 1:
        return NotImplemented
    return Numbers(x.values, shape.size == 0, x.dtype)


@op("ReduceProd")
def reduce_prod(
    x: Numbers,
    axes_input: Any = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Any:
    result: Any = 1
    for value in x.values:
        result = multiplied(result, value)
        if result is NotImplemented:
            return NotImplemented
    return Numbers((result,), not keepdims, x.dtype).simplified()


@op("Shape")
def shape(x: Numbers, *, start: int = 0, end: int | None = None) -> Any:
    return np.array(x.shape[start:end], np.int64)
