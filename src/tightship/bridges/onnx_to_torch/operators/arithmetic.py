"""Elementwise arithmetic, comparisons and logic."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS

OPERATORS.rows(
    ("Abs", 6, torch.abs),
    ("Acos", 7, torch.acos),
    ("Acosh", 9, torch.acosh),
    ("Add", 7, torch.add),
    ("And", 7, torch.logical_and),
    ("Asin", 7, torch.asin),
    ("Asinh", 9, torch.asinh),
    ("Atan", 7, torch.atan),
    ("Atanh", 9, torch.atanh),
    ("Ceil", 6, torch.ceil),
    ("Cos", 7, torch.cos),
    ("Cosh", 9, torch.cosh),
    ("Equal", 7, torch.eq),
    ("Erf", 9, torch.erf),
    ("Exp", 6, torch.exp),
    ("Floor", 6, torch.floor),
    ("Greater", 7, torch.gt),
    ("GreaterOrEqual", 12, torch.ge),
    ("IsNaN", 9, torch.isnan),
    ("Less", 7, torch.lt),
    ("LessOrEqual", 12, torch.le),
    ("Log", 6, torch.log),
    ("Mul", 7, torch.mul),
    ("Neg", 6, torch.neg),
    ("Not", 1, torch.logical_not),
    ("Or", 7, torch.logical_or),
    ("Reciprocal", 6, torch.reciprocal),
    ("Round", 11, torch.round),
    ("Sign", 9, torch.sign),
    ("Sin", 7, torch.sin),
    ("Sinh", 9, torch.sinh),
    ("Sqrt", 6, torch.sqrt),
    ("Sub", 7, torch.sub),
    ("Tan", 7, torch.tan),
    ("Where", 9, torch.where),
    ("Xor", 7, torch.logical_xor),
)


@OPERATORS.op("Identity", 1)
def identity(x: Tensor) -> Tensor:
    return x


@OPERATORS.op("Div", 7)
def divide(a: Tensor, b: Tensor) -> Tensor:
    """Divide; integers are rounded towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@OPERATORS.op("Mod", 10)
def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Remainder with the sign of the divisor, or (`fmod`) of the dividend."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@OPERATORS.op("Pow", 7)
def power(x: Tensor, exponent: Tensor) -> Tensor:
    """Power in the type of the base."""
    return torch.pow(x, exponent).to(x.dtype)


@OPERATORS.op("Max", 6)
def maximum(first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = torch.maximum(first, other)
    return first


@OPERATORS.op("Min", 6)
def minimum(first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = torch.minimum(first, other)
    return first


@OPERATORS.op("Sum", 6)
def total(first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = first + other
    return first


@OPERATORS.op("Mean", 6)
def mean_of(first: Tensor, *others: Tensor) -> Tensor:
    return total(first, *others) / (1 + len(others))


@OPERATORS.op("Clip", 11)
def clip(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    return x if min is None and max is None else torch.clamp(x, min, max)


@OPERATORS.op("Clip", 6)
def clip_6(x: Tensor, *, min: float = -3.4028234663852886e38, max: float = 3.4028234663852886e38) -> Tensor:
    return torch.clamp(x, min, max)


@OPERATORS.op("IsInf", 10)
def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    x = x.float() if x.dtype.itemsize == 1 else x
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if detect_positive:
        return torch.isposinf(x)
    return torch.isneginf(x) if detect_negative else torch.zeros_like(x, dtype=torch.bool)
