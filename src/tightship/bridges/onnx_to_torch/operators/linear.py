"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS


@OPERATORS.op("Gemm", 7)
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """alpha * a @ b + beta * c"""
    product = torch.matmul(a.t() if transA else a, b.t() if transB else b)
    product = product if alpha == 1 else (alpha * product).to(a.dtype)
    if c is None:
        return product
    return product + (c if beta == 1 else (beta * c).to(a.dtype))


@OPERATORS.op("Einsum", 12)
def einsum(*inputs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *inputs)


OPERATORS.rows(("Det", 11, torch.det), ("MatMul", 1, torch.matmul))
