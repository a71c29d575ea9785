"""Matrix products, which become Dense layers where one side is a constant matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import like, plain
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, dtype_of

op = OPERATORS.op

Operand = Tensor | np.ndarray

_FLOATS = ("float16", "float32", "float64", "bfloat16")


@op("MatMul")
def matmul(a: Operand, b: Operand, *, build: Build) -> Tensor:
    if isinstance(b, np.ndarray) and b.ndim == 2 and isinstance(a, Tensor) and _fits_dense(a):
        return like(dense(plain(a), b, None, build))
    left, right = build.straight(a, b)
    return like(multiplied(left, right, dtype_of(a)))


def _fits_dense(a: Tensor) -> bool:
    return a.dtype in _FLOATS and a.rank >= 2 and a.shape[-1] is not None


def dense(x: Any, matrix: np.ndarray, bias: np.ndarray | None, build: Build) -> Any:
    """A Dense layer with this kernel `[in, out]` and bias `[out]`."""
    weights = [matrix] if bias is None else [matrix, bias]
    return build.layer(layers.Dense, x, weights, units=matrix.shape[1], use_bias=bias is not None)


def multiplied(left: Any, right: Any, dtype: str) -> Any:
    """A product in a type that every backend has one for."""
    if dtype.startswith(("int", "uint")):
        wide = "int64" if dtype in ("int64", "uint64", "uint32") else "int32"
        return ops.cast(ops.matmul(ops.cast(left, wide), ops.cast(right, wide)), dtype)
    return ops.matmul(left, right)


@op("Gemm", since=7)
def gemm(
    a: Operand,
    b: Operand,
    c: Operand | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    build: Build,
) -> Tensor:
    constant = isinstance(b, np.ndarray) and (c is None or isinstance(c, np.ndarray)) and isinstance(a, Tensor)
    if constant and dtype_of(a) in _FLOATS and not transA:
        assert isinstance(a, Tensor) and isinstance(b, np.ndarray)
        return _gemm_layer(a, b, c, alpha, beta, transB, build)
    left, right = build.straight(a, b)
    left = ops.transpose(left, (1, 0)) if transA else left
    right = ops.transpose(right, (1, 0)) if transB else right
    dtype = dtype_of(a)
    result = multiplied(left, right, dtype)
    result = result if alpha == 1.0 else ops.cast(ops.multiply(result, float(alpha)), dtype)
    if c is None:
        return like(result)
    addend = build.straight(c)[0]
    addend = addend if beta == 1.0 else ops.cast(ops.multiply(addend, float(beta)), dtype)
    return like(plus(result, addend))


def _gemm_layer(a: Tensor, b: np.ndarray, c: Any, alpha: float, beta: float, transposed: int, build: Build) -> Tensor:
    kernel = (b.T if transposed else b) * np.asarray(alpha, b.dtype)
    addend = None if c is None else c * np.asarray(beta, b.dtype)
    row = addend is not None and (addend.ndim < 2 or addend.shape[0] == 1)
    bias = np.broadcast_to(addend.reshape(-1), (kernel.shape[1],)) if addend is not None and row else None
    result = dense(plain(a), np.ascontiguousarray(kernel), bias, build)
    return like(result if addend is None or row else plus(result, build.constant(addend)))


@op("Gemm", since=1)
def gemm_old(
    a: Operand,
    b: Operand,
    c: Operand,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    broadcast: int = 0,
    transA: int = 0,
    transB: int = 0,
    build: Build,
) -> Tensor:
    return gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB, build=build)
