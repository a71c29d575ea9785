"""Weights of a graph turned into inputs, so that one session or one module runs with any values of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tightship.passes.linear import linear_operators

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["FedWeight", "feed_weights"]


@dataclass(frozen=True)
class FedWeight:
    """The input `name` that a product reads its weight from: `[N, K]` where `by_rows`, else `[K, N]`."""

    name: str
    by_rows: bool
    array: np.ndarray

    def arranged(self, rows: np.ndarray) -> np.ndarray:
        """Return a weight `[N, K]` as the input takes it."""
        return rows if self.by_rows else np.ascontiguousarray(rows.T)

    @property
    def rows(self) -> np.ndarray:
        """The weight `[N, K]` (a view)."""
        return self.array if self.by_rows else self.array.T


def feed_weights(graph: onnx_ir.Model, names: Iterable[str]) -> dict[str, FedWeight]:
    """Let the named products read their weights from new inputs, in place; return these by the product's name."""
    import onnx_ir

    wanted, fed = set(names), {}
    for linear in list(linear_operators(graph)):
        if linear.name not in wanted:
            continue
        by_rows = linear.node.op_type == "Gemm" and bool(linear.node.attributes.get_int("transB", 0))
        array = np.ascontiguousarray(linear.read().T if by_rows else linear.read())
        value = onnx_ir.Value(
            name=f"{linear.name}/fed", type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT), shape=onnx_ir.Shape(array.shape)
        )
        graph.graph.inputs.append(value)
        linear.node.replace_input_with(1, value)
        fed[linear.name] = FedWeight(value.name or "", by_rows, array)
    return fed
