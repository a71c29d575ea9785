"""Going through a graph node by node, with what is known while converting kept apart from what the model computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.bridges.onnx_to_keras.build import Build, Ground
from tightship.bridges.onnx_to_keras.folding import folded, refuse_enormous
from tightship.bridges.onnx_to_keras.functions import has_function, taken_apart
from tightship.bridges.onnx_to_keras.shapes import as_tensor
from tightship.bridges.onnx_to_keras.table import INJECTED, OPERATORS, REASONS, SHAPES
from tightship.bridges.onnx_to_keras.values import Numbers, Tensor, Unsupported, Value
from tightship.core.operators import Entry
from tightship.errors import nearest

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Problem", "Walk"]

Problem = tuple[str, str, str]
"""Operator, node, and the reason why it is not supported."""


class _Broken:
    """Stands for the outputs of a node that is not supported, so that the nodes after it are still looked at."""


BROKEN = _Broken()


class Walk:
    """Values of a graph so far, and the nodes that are not supported."""

    def __init__(self, ground: Ground, opsets: Mapping[str, int]) -> None:
        self.ground = ground
        self.opsets = dict(opsets)
        self.values: dict[onnx_ir.Value, Any] = {}
        self.problems: list[Problem] = []

    def run(self, nodes: Iterable[onnx_ir.Node]) -> None:
        """Build every node; those that cannot be built are noted as problems."""
        for node in nodes:
            inputs = [None if value is None else self.value(value) for value in node.inputs]
            results: Sequence[Any] = ()
            broken = any(value is BROKEN for value in inputs)
            try:
                self._refuse_unknown(node)
                if not broken:
                    results = self._build(node, inputs)
            except Exception as error:  # Keras' shape functions raise many types on what they cannot express
                reason = str(error) if isinstance(error, Unsupported) else f"Keras refuses it: {_first_line(error)}"
                self.problems.append((_operator(node), Build(node, self.ground, 0).name, reason))
                broken = True
            self.values.update(zip(node.outputs, [BROKEN] * len(node.outputs) if broken else results, strict=False))

    def value(self, value: onnx_ir.Value) -> Any:
        """Return what stands for a value; an initializer is read when it is first used."""
        if value not in self.values:
            if value.const_value is None:
                raise Unsupported(f"the value {value.name!r} is not computed before it is used")
            self.values[value] = _array(value.const_value)
        return self.values[value]

    def inner(self, graph: onnx_ir.Graph, inputs: Sequence[Any]) -> list[Any]:
        """Run a subgraph on inputs and return its outputs. Raises `Unsupported` where a node in it is."""
        before = len(self.problems)
        self.values.update(zip(graph.inputs, inputs, strict=True))
        for node in graph:
            for output in node.outputs:
                self.values.pop(output, None)
        self.run(graph)
        if len(self.problems) > before:
            faults = {f"{operator}: {reason}" for operator, _, reason in self.problems[before:]}
            del self.problems[before:]
            raise Unsupported("inside it, " + "; ".join(sorted(faults)))
        return [self.value(output) for output in graph.outputs]

    def _opset(self, node: onnx_ir.Node) -> int:
        return self.opsets.get(node.domain, 1)

    def _entry(self, node: onnx_ir.Node) -> Entry | None:
        return OPERATORS.find(node.op_type, self._opset(node), node.domain)

    def _refuse_unknown(self, node: onnx_ir.Node) -> None:
        if self._entry(node) or has_function(node, self._opset(node)):
            return
        if node.op_type in REASONS and not node.domain:
            raise Unsupported(REASONS[node.op_type])
        oldest = OPERATORS.oldest(node.op_type, node.domain)
        if oldest:
            raise Unsupported(f"it is known from opset {oldest.since} on, the model has {self._opset(node)}")
        raise Unsupported(f"there is no such operator here{nearest(node.op_type, OPERATORS.names(node.domain))}")

    def _build(self, node: onnx_ir.Node, inputs: list[Any]) -> Sequence[Any]:
        attributes = {name: _attribute(attribute) for name, attribute in node.attributes.items()}
        has_subgraph = any(_is_graph(attribute) for attribute in node.attributes.values())
        if not has_subgraph and all(value is None or isinstance(value, np.ndarray) for value in inputs):
            constants = folded(node, inputs, self.opsets)
            if constants is not None and all(_is_constant(value) for value in constants):
                refuse_enormous(sum(getattr(value, "nbytes", 0) for value in constants))
                return constants
        if any(isinstance(value, Numbers) for value in inputs):
            result = self._numbers(node, inputs, attributes)
            if result is not NotImplemented:
                return [result]
        return self._tensors(node, inputs, attributes)

    def _numbers(self, node: onnx_ir.Node, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Any:
        entry = SHAPES.find(node.op_type, self._opset(node), node.domain)
        if entry is None or not all(value is None or isinstance(value, Numbers | np.ndarray) for value in inputs):
            return NotImplemented
        return NotImplemented if entry.unknown(attributes) else entry(inputs, attributes)

    def _tensors(self, node: onnx_ir.Node, inputs: list[Any], attributes: dict[str, Any]) -> Sequence[Any]:
        build = Build(node, self.ground, self._opset(node), self)
        entry = self._entry(node)
        if entry is None:
            return self._apart(node, [_materialised(value, build) for value in inputs])
        unknown = entry.unknown(attributes)
        if unknown:
            raise Unsupported(f"its attribute {', '.join(unknown)} is not known")
        attributes.update({name: build for name in INJECTED if name in entry.attributes})
        result = entry(_fitting(entry, inputs, build), attributes)
        results = result if isinstance(result, tuple) else (result,)
        self.ground.name_operations([one.value for one in results if isinstance(one, Tensor)], build.name)
        return results

    def _apart(self, node: onnx_ir.Node, inputs: list[Any]) -> Sequence[Any]:
        graph = taken_apart(node, inputs, self._opset(node))
        if graph is None:
            raise Unsupported("there is no such operator here, and ONNX does not tell it in terms of others")
        name = Build(node, self.ground, 0).name
        for index, inner in enumerate(graph):
            inner.name = f"{name}_{inner.op_type}_{index}"
        given = {value.name: array for value, array in zip(node.inputs, inputs, strict=True) if value is not None}
        results = iter(self.inner(graph, [given[value.name] for value in graph.inputs]))
        return [next(results) if output.name else None for output in node.outputs]


def _fitting(entry: Entry, inputs: Sequence[Any], build: Build) -> list[Any]:
    """Inputs as the parameters want them: `Numbers` only where the annotation says `Lengths` or `Any`."""
    parameters = [*entry.inputs]
    fitting = []
    for index, value in enumerate(inputs):
        parameter = parameters[min(index, len(parameters) - 1)] if parameters else None
        takes = parameter is not None and ("Lengths" in str(parameter.annotation) or parameter.annotation == "Any")
        fitting.append(value if takes else _materialised(value, build))
    if len(inputs) > len(parameters) and not (parameters and parameters[-1].kind is parameters[-1].VAR_POSITIONAL):
        raise Unsupported(f"it has {len(inputs)} inputs, expected {len(parameters)} at most")
    return fitting


def _materialised(value: Any, build: Build) -> Any:
    return as_tensor(value, build) if isinstance(value, Numbers) else value


def _is_constant(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_constant(item) for item in value)
    return value is None or isinstance(value, np.ndarray | np.generic)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _operator(node: onnx_ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else str(node.op_type)


def _is_graph(attribute: Any) -> bool:
    import onnx_ir

    return attribute.type in (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS)


def _attribute(attribute: Any) -> Any:
    import onnx_ir

    if attribute.type == onnx_ir.AttributeType.TENSOR:
        return _array(attribute.value)
    if attribute.type in (onnx_ir.AttributeType.INTS, onnx_ir.AttributeType.FLOATS, onnx_ir.AttributeType.STRINGS):
        return list(attribute.value)
    return attribute.value


def _array(tensor: Any) -> np.ndarray:
    array: np.ndarray = np.asarray(tensor.numpy())
    return array
