"""Shape arithmetic in Python numbers, and the way between numbers and tensors.

A number or list of numbers stands for an ONNX tensor of rank 0 or 1. Under torch.export the numbers are symbols.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import SHAPES

Numbers = Any
"""A number or a list of numbers."""


def as_tensor(values: Numbers, *, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return a tensor of rank 0 or 1."""
    return torch.tensor(values, dtype=dtype)


def to_list(tensor: Tensor | None) -> list[Any] | None:
    """Read a tensor as a flat list of numbers."""
    return None if tensor is None else tensor.reshape(-1).tolist()


def to_number(tensor: Tensor | None) -> Any:
    """Read a tensor of one element as a number; None where there is none."""
    return None if tensor is None or tensor.numel() == 0 else tensor.reshape(-1)[0].item()


def each(function: Callable[..., Any], a: Numbers, b: Numbers) -> Numbers:
    """Apply a function of two numbers elementwise; a number or a list of one meets every item of the other."""
    if not isinstance(a, list) and not isinstance(b, list):
        return function(a, b)
    length = max(len(item) for item in (a, b) if isinstance(item, list))
    left, right = (
        [item] * length if not isinstance(item, list) else item * length if len(item) == 1 else item for item in (a, b)
    )
    return [function(x, y) for x, y in zip(left, right, strict=True)]


def all_of(function: Callable[..., Any], a: Numbers) -> Numbers:
    """Apply a function of one number elementwise."""
    return [function(item) for item in a] if isinstance(a, list) else function(a)


def quotient(a: Any, b: Any) -> Any:
    """Divide two numbers; integers are rounded towards zero."""
    if isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat):
        return a / b
    return a // b if (a >= 0) == (b > 0) else -(-a // b)


@SHAPES.op("Shape", 1)
def shape_numbers(data: Tensor, *, start: int = 0, end: int | None = None) -> list[int]:
    return list(data.shape)[start:end]


@SHAPES.op("Size", 1)
def size_numbers(data: Tensor) -> int:
    return math.prod(data.shape)


@SHAPES.op("Identity", 1)
def same_numbers(data: Numbers) -> Numbers:
    return data


@SHAPES.op("Add", 7)
def add_numbers(a: Numbers, b: Numbers) -> Numbers:
    return each(operator.add, a, b)


@SHAPES.op("Sub", 7)
def subtract_numbers(a: Numbers, b: Numbers) -> Numbers:
    return each(operator.sub, a, b)


@SHAPES.op("Mul", 7)
def multiply_numbers(a: Numbers, b: Numbers) -> Numbers:
    return each(operator.mul, a, b)


@SHAPES.op("Div", 7)
def divide_numbers(a: Numbers, b: Numbers) -> Numbers:
    return each(quotient, a, b)


@SHAPES.op("Mod", 10)
def modulo_numbers(a: Numbers, b: Numbers, *, fmod: int = 0) -> Numbers:
    return each(math.fmod if fmod else operator.mod, a, b)


@SHAPES.op("Neg", 6)
def negate_numbers(a: Numbers) -> Numbers:
    return all_of(operator.neg, a)


@SHAPES.op("Floor", 6)
def floor_numbers(a: Numbers) -> Numbers:
    return [float(math.floor(item)) for item in a] if isinstance(a, list) else float(math.floor(a))


@SHAPES.op("Ceil", 6)
def ceil_numbers(a: Numbers) -> Numbers:
    return [float(math.ceil(item)) for item in a] if isinstance(a, list) else float(math.ceil(a))


@SHAPES.op("Equal", 7)
def equal_numbers(a: Numbers, b: Numbers) -> Numbers:
    return each(operator.eq, a, b)


@SHAPES.op("Less", 7)
def less_numbers(a: Numbers, b: Numbers) -> Numbers:
    return each(operator.lt, a, b)


@SHAPES.op("Greater", 7)
def greater_numbers(a: Numbers, b: Numbers) -> Numbers:
    return each(operator.gt, a, b)


@SHAPES.op("Not", 1)
def not_numbers(a: Numbers) -> Numbers:
    return all_of(operator.not_, a)


@SHAPES.op("And", 7)
def and_numbers(a: Numbers, b: Numbers) -> Numbers:
    return each(operator.and_, a, b)


@SHAPES.op("Or", 7)
def or_numbers(a: Numbers, b: Numbers) -> Numbers:
    return each(operator.or_, a, b)


def larger(a: Any, b: Any) -> Any:
    return torch.sym_max(a, b)


def smaller(a: Any, b: Any) -> Any:
    return torch.sym_min(a, b)


@SHAPES.op("Max", 8)
def largest_numbers(first: Numbers, *others: Numbers) -> Numbers:
    for other in others:
        first = each(larger, first, other)
    return first


@SHAPES.op("Min", 8)
def smallest_numbers(first: Numbers, *others: Numbers) -> Numbers:
    for other in others:
        first = each(smaller, first, other)
    return first


@SHAPES.op("Where", 9)
def where_numbers(condition: Numbers, a: Numbers, b: Numbers) -> Numbers:
    pairs = each(lambda x, y: (x, y), a, b)
    return each(lambda chosen, pair: pair[0] if chosen else pair[1], condition, pairs)


@SHAPES.op("Cast", 6)
def cast_numbers(
    data: Numbers, *, to: torch.dtype, saturate: int = 1, round_mode: str = "up", output_type: str = ""
) -> Numbers:
    if to.is_floating_point:
        return all_of(torch.sym_float, data)
    return all_of(bool if to == torch.bool else torch.sym_int, data)


@SHAPES.op("Gather", 1)
def gather_numbers(data: Numbers, indices: Numbers, *, axis: int = 0) -> Numbers:
    return all_of(lambda index: data[index], indices)


@SHAPES.op("Concat", 4)
def concatenate_numbers(*inputs: Numbers, axis: int) -> list[int]:
    return [item for items in inputs for item in items]


@SHAPES.op("Slice", 10)
def slice_numbers(
    data: Numbers,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> list[int]:
    start, end, step = starts[0], ends[0], steps[0] if steps else 1
    if step < 0 and end < -len(data):
        end = None  # type: ignore[assignment]
    return list(data[start:end:step])


@SHAPES.op("Slice", 1)
def slice_numbers_1(data: Numbers, *, starts: list[int], ends: list[int], axes: list[int] | None = None) -> list[int]:
    return list(data[starts[0] : ends[0]])


@SHAPES.op("Unsqueeze", 13)
def unsqueeze_numbers(data: Numbers, axes: list[int]) -> Numbers:
    return [data]


@SHAPES.op("Unsqueeze", 1)
def unsqueeze_numbers_1(data: Numbers, *, axes: list[int]) -> Numbers:
    return [data]


@SHAPES.op("Squeeze", 13)
def squeeze_numbers(data: Numbers, axes: list[int] | None = None) -> Numbers:
    return data[0] if isinstance(data, list) else data


@SHAPES.op("Squeeze", 1)
def squeeze_numbers_1(data: Numbers, *, axes: list[int] | None = None) -> Numbers:
    return data[0] if isinstance(data, list) else data


@SHAPES.op("Reshape", 5)
def reshape_numbers(data: Numbers, shape: list[int], *, allowzero: int = 0) -> Numbers:
    if shape:
        return data if isinstance(data, list) else [data]
    return data[0] if isinstance(data, list) else data


@SHAPES.op("ReduceProd", 18)
def product_numbers(
    data: Numbers, axes: list[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Numbers:
    product = math.prod(data)
    return [product] if keepdims else product


@SHAPES.op("ReduceProd", 1)
def product_numbers_1(data: Numbers, *, axes: list[int] | None = None, keepdims: int = 1) -> Numbers:
    return product_numbers(data, keepdims=keepdims)
