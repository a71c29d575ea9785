"""Arithmetic, comparisons and functions of one element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import CARRIERS, Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op

Function = Callable[..., Any]

_TYPES = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "int": "int32", "str": "string"}


def _unary(kind: str) -> Function:
    def function(x: Operand, *, build: Build) -> Any:
        return build(kind, x)

    return function


def _binary(kind: str) -> Function:
    def function(x: Operand, y: Operand, *, build: Build) -> Any:
        return build(kind, *alike(x, y, build))

    return function


def alike(x: Operand, y: Operand, build: Build) -> tuple[Any, Any]:
    """Both in one type: that of the floating-point one where they differ."""
    if x.type.carrier == y.type.carrier:
        return x, y
    wide = str(np.result_type(x.type.carrier, y.type.carrier)) if x.is_float == y.is_float else "float32"
    return build.cast(x, wide), build.cast(y, wide)


OPERATORS.rows(
    ("abs", 15, _unary("Abs")),
    ("acos", 15, _unary("Acos")),
    ("asin", 15, _unary("Asin")),
    ("atan", 15, _unary("Atan")),
    ("atanh", 15, _unary("Atanh")),
    ("ceil", 15, _unary("Ceil")),
    ("cos", 15, _unary("Cos")),
    ("cosh", 15, _unary("Cosh")),
    ("erf", 15, _unary("Erf")),
    ("exp", 15, _unary("Exp")),
    ("floor", 15, _unary("Floor")),
    ("logical_not", 15, _unary("Not")),
    ("round", 15, _unary("Round")),
    ("sign", 15, _unary("Sign")),
    ("sin", 15, _unary("Sin")),
    ("sinh", 15, _unary("Sinh")),
    ("sqrt", 15, _unary("Sqrt")),
    ("tan", 15, _unary("Tan")),
    ("tanh", 15, _unary("Tanh")),
    ("add", 15, _binary("Add")),
    ("sub", 15, _binary("Sub")),
    ("mul", 15, _binary("Mul")),
    ("real_div", 15, _binary("Div")),
    ("pow", 15, _binary("Pow")),
    ("maximum", 15, _binary("Max")),
    ("minimum", 15, _binary("Min")),
    ("equal", 15, _binary("Equal")),
    ("greater", 15, _binary("Greater")),
    ("greater_equal", 15, _binary("GreaterOrEqual")),
    ("less", 15, _binary("Less")),
    ("less_equal", 15, _binary("LessOrEqual")),
    ("logical_and", 15, _binary("And")),
    ("logical_or", 15, _binary("Or")),
    ("logical_xor", 15, _binary("Xor")),
)


@op("not_equal", since=15)
def not_equal(x: Operand, y: Operand, *, build: Build) -> Any:
    return build("Not", build("Equal", *alike(x, y, build)))


@op("floor_div", since=15)
def floor_div(x: Operand, y: Operand, *, build: Build) -> Any:
    """ONNX divides integers towards zero; (x - x mod y) / y is the floor."""
    left, right = alike(x, y, build)
    if x.is_float or y.is_float:
        return build("Floor", build("Div", left, right))
    return build("Div", build("Sub", left, build("Mod", left, right)), right)


@op("mod", since=15)
def mod(x: Operand, y: Operand, *, build: Build) -> Any:
    """The sign is that of the divisor; ONNX has that for integers only."""
    left, right = alike(x, y, build)
    if not x.is_float and not y.is_float:
        return build("Mod", left, right)
    return build("Sub", left, build("Mul", build("Floor", build("Div", left, right)), right))


@op("exp2", since=15)
def exp2(x: Operand, *, build: Build) -> Any:
    return build("Pow", build.like(x, 2), x)


@op("square", since=15)
def square(x: Operand, *, build: Build) -> Any:
    return build("Mul", x, x)


def _shifted(x: Operand, epsilon: float, build: Build) -> Any:
    return build("Add", x, build.like(x, epsilon)) if np.float32(epsilon) else x


@op("inverse", since=15)
def inverse(x: Operand, *, epsilon: float = 1e-4, build: Build) -> Any:
    return build("Reciprocal", _shifted(x, epsilon, build))


@op("log", since=15)
def log(x: Operand, *, epsilon: float = 1e-45, build: Build) -> Any:
    return build("Log", _shifted(x, epsilon, build))


@op("rsqrt", since=15)
def rsqrt(x: Operand, *, epsilon: float = 1e-12, build: Build) -> Any:
    return build("Reciprocal", build("Sqrt", _shifted(x, epsilon, build)))


@op("clip", since=15)
def clip(x: Operand, *, alpha: float, beta: float, build: Build) -> Any:
    return build("Clip", x, build.like(x, alpha), build.like(x, beta))


@op("threshold", since=15)
def threshold(x: Operand, *, alpha: float, build: Build) -> Any:
    return build("Max", x, build.like(x, alpha))


@op("cast", since=15)
def cast(x: Operand, *, dtype: str, build: Build) -> Any:
    """To half precision is to single, in which the graph computes it."""
    name = _TYPES.get(dtype, dtype)
    if name not in CARRIERS or name == "string":
        raise Unsupported(f"a cast to {dtype}")
    return x if np.dtype(CARRIERS[name]) == x.type.carrier else build.cast(x, CARRIERS[name])


@op("select", since=15)
def select(cond: Operand, a: Operand, b: Operand, *, build: Build) -> Any:
    return build("Where", cond, *alike(a, b, build))


@op("identity", since=15)
def identity(x: Operand, *, build: Build) -> Any:
    return x
