"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op


@op("linear", since=15)
def linear(x: Operand, *, weight: np.ndarray, bias: np.ndarray | None = None, build: Build) -> Any:
    """x W^T + b; integers and constants of another type are computed in that of x."""
    weight = weight.astype(x.type.carrier)
    bias = None if bias is None or not np.any(bias) else bias.astype(x.type.carrier)
    if x.rank == 2 and x.is_float:
        return build("Gemm", x, weight, bias, transB=1)
    product = build("MatMul", x, weight.T)
    return product if bias is None else build("Add", product, bias)


@op("matmul", since=15)
def matmul(x: Operand, y: Operand, *, transpose_x: bool = False, transpose_y: bool = False, build: Build) -> Any:
    dtype = (y if x.is_known and not y.is_known else x).type.carrier
    sides = (_side(entry, turn, dtype, build) for entry, turn in ((x, transpose_x), (y, transpose_y)))
    return build("MatMul", *sides)


def _side(x: Operand, turn: bool, dtype: np.dtype[Any], build: Build) -> Any:
    turn = turn and x.rank > 1
    if x.known is not None:
        constant = x.known.astype(dtype)
        return np.swapaxes(constant, -1, -2) if turn else constant
    value = x if x.type.carrier == dtype else build.cast(x, str(dtype))
    return build.transpose(value, [*range(x.rank - 2), x.rank - 1, x.rank - 2]) if turn else value


@op("einsum", since=15)
def einsum(values: Sequence[Operand], *, equation: str, build: Build) -> Any:
    return build("Einsum", *values, equation=equation)


@op("scaled_dot_product_attention", since=18)
def scaled_dot_product_attention(
    query: Operand, key: Operand, value: Operand, attn_mask: Operand | None = None, *, build: Build
) -> Any:
    """softmax(Q K^T / sqrt(E) + mask) V; where a boolean mask is false, nothing is looked at."""
    width = query.shape[-1] or key.shape[-1]
    if width is None:
        raise Unsupported("the width of its heads is not known before the model runs")
    last = [*range(key.rank - 2), key.rank - 1, key.rank - 2]
    scores = build("MatMul", query, build.transpose(key, last))
    scores = build("Mul", scores, np.array(width**-0.5, np.float32))
    if attn_mask is not None:
        mask: Any = attn_mask
        if attn_mask.is_bool:
            mask = build("Where", attn_mask, np.array(0, np.float32), np.array(-np.inf, np.float32))
        scores = build("Add", scores, mask)
    return build("MatMul", build("Softmax", scores, axis=-1), value)
