"""Functions of several tensors that broadcast: operands come in one order of axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from keras import ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import like, plain
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.shapes import Lengths
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Numbers, Tensor, Unsupported, dtype_of

op = OPERATORS.op

Operand = Tensor | np.ndarray

UNSIGNED = {
    "uint32": "int64",
    "uint64": "int64",
    "uint16": "int32",
    "uint8": "int32",
    "int8": "int32",
    "int16": "int32",
}
"""Types in which TensorFlow computes what it lacks for narrow and unsigned ones; uint64 has its lower half there."""


def kept(dtype: str, result: Any) -> Any:
    return result if str(result.dtype) == dtype else ops.cast(result, dtype)


def widened(value: Any) -> Any:
    """Return an operand in a type for which TensorFlow has every function."""
    wide = UNSIGNED.get(str(value.dtype))
    if wide is None:
        return value
    return value.astype(wide) if isinstance(value, np.ndarray) else ops.cast(value, wide)


def binary(
    function: Callable[[Any, Any], Any], result_type: str | None = None, wide: bool = True
) -> Callable[..., Tensor]:
    """Return an operator of two broadcasting operands that keeps their element type or has the given one."""

    def apply(a: Operand, b: Operand, *, build: Build) -> Tensor:
        (left, right), axes = build.aligned(a, b)
        if wide:
            left, right = widened(left), widened(right)
        return Tensor(kept(result_type or dtype_of(a), function(left, right)), axes)

    return apply


def old(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Before opset 7 the second operand broadcast from `axis` on, where the node says so."""

    def apply(a: Operand, b: Operand, *, axis: int | None = None, broadcast: int = 0, build: Build) -> Tensor:
        missing = len(a.shape) - len(b.shape)
        if broadcast and axis is not None and missing > 0 and b.shape:
            if not isinstance(b, np.ndarray):
                raise Unsupported("an operand that broadcasts along inner axes, as before opset 7")
            after = len(a.shape) - (axis % len(a.shape)) - b.ndim
            b = b.reshape((*np.shape(b), *(1,) * after))
        return function(a, b, build=build)

    return apply


def _divide(left: Any, right: Any) -> Any:
    if not str(left.dtype).startswith(("int", "uint")):
        return ops.divide(left, right)
    # ONNX rounds towards zero, floor_divide down.
    quotient = ops.floor_divide(ops.abs(left), ops.abs(right))
    return ops.multiply(quotient, ops.multiply(ops.sign(left), ops.sign(right)))


def _logical(function: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    return binary(function, "bool", wide=False)


_ARITHMETIC = {"Add": plus, "Sub": ops.subtract, "Mul": ops.multiply, "Div": _divide}

OPERATORS.rows(
    *((name, 7, binary(function)) for name, function in _ARITHMETIC.items()),
    *((name, 1, old(binary(function))) for name, function in _ARITHMETIC.items()),
    ("Equal", 7, binary(ops.equal, "bool")),
    ("Greater", 7, binary(ops.greater, "bool")),
    ("Less", 7, binary(ops.less, "bool")),
    ("GreaterOrEqual", 12, binary(ops.greater_equal, "bool")),
    ("LessOrEqual", 12, binary(ops.less_equal, "bool")),
    ("And", 7, _logical(ops.logical_and)),
    ("Or", 7, _logical(ops.logical_or)),
    ("Xor", 7, _logical(ops.logical_xor)),
    ("BitwiseAnd", 18, binary(ops.bitwise_and, wide=False)),
    ("BitwiseOr", 18, binary(ops.bitwise_or, wide=False)),
    ("BitwiseXor", 18, binary(ops.bitwise_xor, wide=False)),
)


def _several(function: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    def apply(*inputs: Operand, build: Build) -> Tensor:
        operands, axes = build.aligned(*inputs)
        dtype = dtype_of(inputs[0])
        if len(operands) == 1:
            return Tensor(operands[0], axes)
        return Tensor(kept(dtype, reduce(function, [widened(operand) for operand in operands])), axes)

    return apply


OPERATORS.rows(("Sum", 6, _several(plus)), ("Max", 6, _several(ops.maximum)), ("Min", 6, _several(ops.minimum)))


@op("Mean", since=6)
def mean(*inputs: Operand, build: Build) -> Tensor:
    operands, axes = build.aligned(*inputs)
    return Tensor(ops.divide(reduce(plus, operands), float(len(operands))), axes)


@op("Pow", since=7)
def power(x: Operand, y: Operand, *, build: Build) -> Tensor:
    (base, exponent), axes = build.aligned(x, y)
    dtype = dtype_of(x)
    if isinstance(y, np.ndarray) and y.size == 1 and float(y.reshape(-1)[0]) in (0.5, 2.0) and isinstance(x, Tensor):
        function = ops.square if float(y.reshape(-1)[0]) == 2.0 else ops.sqrt
        return Tensor(kept(dtype, function(base)), axes)
    whole = dtype.startswith(("int", "uint"))
    carrier = "float64" if whole and not dtype_of(y).startswith(("int", "uint")) else widened_type(dtype)
    return Tensor(kept(dtype, ops.power(ops.cast(base, carrier), ops.cast(exponent, carrier))), axes)


def widened_type(dtype: str) -> str:
    return UNSIGNED.get(dtype, dtype)


@op("Mod", since=10)
def mod(a: Operand, b: Operand, *, fmod: int = 0, build: Build) -> Tensor:
    (left, right), axes = build.aligned(a, b)
    dtype = dtype_of(a)
    left, right = widened(left), widened(right)
    if not fmod:
        return Tensor(kept(dtype, ops.mod(left, right)), axes)
    remainder = ops.mod(ops.abs(left), ops.abs(right))
    return Tensor(kept(dtype, ops.multiply(ops.sign(left), remainder)), axes)


@op("BitShift", since=11)
def bit_shift(x: Operand, y: Operand, *, direction: str, build: Build) -> Tensor:
    (value, count), axes = build.aligned(x, y)
    dtype = dtype_of(x)
    width = np.dtype(dtype).itemsize * 8
    # Past the width nothing is left of a number but its sign; backends leave that undefined.
    inside = ops.less(count, np.full((1,), width, dtype))
    if not dtype.startswith("uint"):
        inside = ops.logical_and(inside, ops.greater_equal(count, np.zeros((1,), dtype)))
    limited = ops.where(inside, count, np.full((1,), width - 1, dtype))
    if direction == "RIGHT" and not dtype.startswith("uint"):
        return Tensor(kept(dtype, ops.right_shift(value, limited)), axes)
    shifted = (ops.left_shift if direction == "LEFT" else ops.right_shift)(value, limited)
    return Tensor(kept(dtype, ops.where(inside, kept(dtype, shifted), np.zeros((1,), dtype))), axes)


@op("Where", since=9)
def where(condition: Operand, x: Lengths, y: Lengths, *, build: Build) -> Tensor:
    left, right = (_tensor(value, build) for value in (x, y))
    (flag, yes, no), axes = build.aligned(condition, left, right)
    return Tensor(kept(dtype_of(left), ops.where(flag, yes, no)), axes)


def _tensor(value: Lengths, build: Build) -> Operand:
    from tightship.bridges.onnx_to_keras.shapes import as_tensor

    return as_tensor(value, build) if isinstance(value, Numbers) else value


@op("Det", since=11)
def det(x: Tensor) -> Tensor:
    return like(ops.det(plain(x)))


@op("Einsum", since=12)
def einsum(*inputs: Operand, equation: str, build: Build) -> Tensor:
    tensors = [plain(value) if isinstance(value, Tensor) else build.constant(value) for value in inputs]
    return like(kept(dtype_of(inputs[0]), ops.einsum(equation.replace(" ", ""), *tensors)))
