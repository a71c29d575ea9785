"""Matrix products whose weight is a constant, whichever operator and layout the model writes them in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tightship.core.graph import operator_name
from tightship.core.passes import Operator
from tightship.passes.editing import constant, known_constant, weight_array

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LEAST_WEIGHT_BYTES", "Linear", "linear_operators"]

LEAST_WEIGHT_BYTES = 4096
"""Smaller weights are left as they are: quantizing the activations costs more than such a product gains."""


@dataclass(frozen=True)
class Linear:
    """`y[..., N] = x[..., K] @ weight + bias` in float32, written as MatMul or Gemm.

    `weight` is the constant as it is stored: `[K, N]`, or `[N, K]` where `transposed`. `bias` is None for MatMul.
    """

    node: onnx_ir.Node
    weight: onnx_ir.Value
    transposed: bool

    @property
    def name(self) -> str:
        return operator_name(self.node)

    @property
    def x(self) -> onnx_ir.Value:
        return self.node.inputs[0]

    @property
    def bias(self) -> onnx_ir.Value | None:
        """Read when asked for: where another product computes it, that may have been replaced meanwhile."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    @property
    def operator(self) -> Operator:
        return Operator(self.name, self.node.op_type, known_constant(self.weight).nbytes)

    def read(self) -> np.ndarray:
        """Return the weight as `[K, N]` (a view). Raises `InvalidModel` where it is not finite."""
        stored = weight_array(self.weight)
        return stored.T if self.transposed else stored


def linear_operators(graph: onnx_ir.Model) -> Iterator[Linear]:
    """Yield the linear operators of the main graph, in its order, with weights of `LEAST_WEIGHT_BYTES` or more."""
    for node in graph.graph:
        found = _linear(node)
        if found is not None and known_constant(found.weight).nbytes >= LEAST_WEIGHT_BYTES:
            yield found


def _linear(node: onnx_ir.Node) -> Linear | None:
    if node.domain != "" or node.op_type not in {"MatMul", "Gemm"}:
        return None
    stored = _stored(node.inputs[1])
    if stored is None or _rank_below_two(node.inputs[0]):
        return None
    weight, transposed = stored
    if node.op_type == "MatMul":
        return Linear(node, weight, transposed)
    if node.attributes.get_int("transA", 0) or node.attributes.get_float("alpha", 1.0) != 1.0:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and node.attributes.get_float("beta", 1.0) != 1.0:
        return None
    return Linear(node, weight, transposed != bool(node.attributes.get_int("transB", 0)))


def _stored(value: onnx_ir.Value | None) -> tuple[onnx_ir.Value, bool] | None:
    """Return the constant matrix behind `value` and whether it is read transposed.

    Exporters write a weight that is shared with an embedding as `Transpose(embedding)`.
    """
    if value is None:
        return None
    if _is_float_matrix(value):
        return value, False
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and node.domain == "" and _is_float_matrix(node.inputs[0]):
        return node.inputs[0], list(node.attributes.get_ints("perm", (1, 0))) == [1, 0]
    return None


def _is_float_matrix(value: onnx_ir.Value | None) -> bool:
    import onnx_ir

    tensor = constant(value)
    return tensor is not None and tensor.dtype == onnx_ir.DataType.FLOAT and len(tensor.shape) == 2


def _rank_below_two(value: onnx_ir.Value | None) -> bool:
    return value is None or (value.shape is not None and len(value.shape) < 2)
