"""Operators whose weights can be kept as codes: matrix products and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tightship.core.graph import operator_name
from tightship.core.passes import Operator
from tightship.passes.editing import constant, known_constant, weight_array
from tightship.passes.linear import LEAST_WEIGHT_BYTES, Linear, linear_operators

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir

    from tightship.passes.coded_weights import CodedWeight, WeightWriter

__all__ = ["Codable", "Embedding", "Product", "coded_operators"]


class Codable(Protocol):
    """An operator with a constant matrix. Two of the same `key` read the same weight in the same way."""

    @property
    def name(self) -> str: ...

    @property
    def operator(self) -> Operator: ...

    @property
    def key(self) -> tuple[str, bool]: ...

    def rows(self) -> np.ndarray:
        """Return the weight `[N, K]`, blocks of codes lying along K."""

    def write(self, writer: WeightWriter, weight: CodedWeight) -> None:
        """Put an operator that reads `weight` in the place of this one."""


@dataclass(frozen=True)
class Product:
    """A matrix product."""

    linear: Linear

    @property
    def name(self) -> str:
        return self.linear.name

    @property
    def operator(self) -> Operator:
        return self.linear.operator

    @property
    def key(self) -> tuple[str, bool]:
        return self.linear.weight.name or "", self.linear.transposed

    def rows(self) -> np.ndarray:
        return self.linear.read().T

    def write(self, writer: WeightWriter, weight: CodedWeight) -> None:
        writer.linear(self.linear, weight)


@dataclass(frozen=True)
class Embedding:
    """Rows of a constant float32 matrix `[V, D]`, looked up by Gather."""

    node: onnx_ir.Node

    @property
    def name(self) -> str:
        return operator_name(self.node)

    @property
    def operator(self) -> Operator:
        return Operator(self.name, "Gather", known_constant(self._weight).nbytes)

    @property
    def key(self) -> tuple[str, bool]:
        return f"{self._weight.name}/rows", False

    @property
    def _weight(self) -> onnx_ir.Value:
        return self.node.inputs[0]

    def rows(self) -> np.ndarray:
        return weight_array(self._weight)

    def write(self, writer: WeightWriter, weight: CodedWeight) -> None:
        writer.embedding(self.node, self.name, weight)


def coded_operators(graph: onnx_ir.Model, block: int) -> Iterator[Product | Embedding]:
    """Yield the operators of the main graph whose weights can be coded in blocks of `block` numbers, in its order."""
    linear = {target.node: target for target in linear_operators(graph)}
    for node in graph.graph:
        if node in linear:
            yield Product(linear[node])
        elif _is_embedding(node, block):
            yield Embedding(node)


def _is_embedding(node: onnx_ir.Node, block: int) -> bool:
    import onnx_ir

    if (node.op_type, node.domain) != ("Gather", "") or node.attributes.get_int("axis", 0):
        return False
    weight = constant(node.inputs[0])
    if weight is None or weight.dtype != onnx_ir.DataType.FLOAT or len(weight.shape) != 2:
        return False
    # GatherBlockQuantized has no way to say that the last block of a row is not full.
    return bool(weight.nbytes >= LEAST_WEIGHT_BYTES and weight.shape[1] % block == 0)
