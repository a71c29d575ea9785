"""Operators and constants on their way to a graph. Constants are read from the checkpoint when they are touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["CONTRIB", "Writer"]

CONTRIB = "com.microsoft"
_OPSET = 21
_IR_VERSION = 10


class Writer:
    """Collects what a graph consists of, in order; every value is named after the operator that makes it."""

    def __init__(self) -> None:
        self._nodes: list[onnx_ir.Node] = []
        self._constants: dict[str, onnx_ir.Value] = {}

    def op(
        self,
        op_type: str,
        inputs: Sequence[onnx_ir.Value],
        name: str,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
    ) -> onnx_ir.Value:
        """Add an operator with one output."""
        return self.ops(op_type, inputs, name, 1, attributes, domain)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[onnx_ir.Value],
        name: str,
        n_outputs: int,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
    ) -> Sequence[onnx_ir.Value]:
        """Add an operator and return its outputs."""
        import onnx_ir

        node = onnx_ir.node(op_type, inputs, attributes, domain=domain, num_outputs=n_outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = name if n_outputs == 1 else f"{name}/{index}"
        self._nodes.append(node)
        outputs: Sequence[onnx_ir.Value] = node.outputs
        return outputs

    def constant(self, name: str, values: Any, dtype: str) -> onnx_ir.Value:
        """Add a small constant; a second one of the same name is the first."""
        import onnx_ir

        if name not in self._constants:
            tensor = onnx_ir.tensor(np.array(values, dtype), name=name)
            self._add(name, tensor)
        return self._constants[name]

    def stored(self, name: str, read: Callable[[], np.ndarray], dtype: str, shape: Sequence[int]) -> onnx_ir.Value:
        """Add a constant that `read` returns each time it is touched; nothing is kept."""
        import onnx_ir

        if name not in self._constants:

            def load() -> onnx_ir.Tensor:
                return onnx_ir.Tensor(read(), name=name)

            kind = onnx_ir.DataType.from_numpy(np.dtype(dtype))
            self._add(name, onnx_ir.LazyTensor(load, kind, onnx_ir.Shape(shape), name=name))
        return self._constants[name]

    def model(self, inputs: Sequence[onnx_ir.Value], outputs: Sequence[onnx_ir.Value], name: str) -> onnx_ir.Model:
        """Return the graph of all that was added."""
        import onnx_ir

        opsets = {"": _OPSET}
        if any(node.domain == CONTRIB for node in self._nodes):
            opsets[CONTRIB] = 1
        graph = onnx_ir.Graph(
            inputs,
            outputs,
            nodes=self._nodes,
            initializers=list(self._constants.values()),
            opset_imports=opsets,
            name=name,
        )
        return onnx_ir.Model(graph, ir_version=_IR_VERSION)

    def _add(self, name: str, tensor: onnx_ir.TensorProtocol) -> None:
        import onnx_ir

        kind = onnx_ir.TensorType(tensor.dtype)
        self._constants[name] = onnx_ir.Value(name=name, shape=tensor.shape, type=kind, const_value=tensor)
