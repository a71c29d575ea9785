"""Which tensor of one graph is which of another: by name, by what computes it from what, and by place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tightship.core.model import Model
from tightship.measure.parity import pair

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["is_constant", "match_values", "paired_inputs"]

_NO_TENSORS = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence")


def match_values(first: Model, second: Model) -> dict[onnx_ir.Value, onnx_ir.Value]:
    """Return for values of the second graph their counterparts in the first, in the second's topological order.

    Inputs and outputs are paired by name, else by position. A value inside is paired with one of the same name that an
    operator of the same type makes, else with what the first operator not yet taken of the same type makes from the
    same counterparts.
    """
    matched = paired_inputs(first, second)
    outputs = pair(
        [value.name for value in second.graph.graph.outputs], [value.name for value in first.graph.graph.outputs]
    )
    by_name = {value.name: value for node in first.graph.graph for value in node.outputs}
    users = _users(first)
    taken: set[onnx_ir.Node] = set()
    for node in second.graph.graph:
        if is_constant(node) or node.op_type.startswith(_NO_TENSORS):
            continue
        twin = _named_twin(node, by_name) or _computed_twin(node, matched, users, taken)
        if twin is not None:
            taken.add(twin)
            matched.update(zip(node.outputs, twin.outputs, strict=False))
        for value in node.outputs:
            if value.is_graph_output() and outputs[value.name] in by_name:
                matched[value] = by_name[outputs[value.name]]
    return {
        value: other for value, other in matched.items() if value.producer() is not None and value.name and other.name
    }


def is_constant(node: onnx_ir.Node) -> bool:
    """Whether a node computes nothing from the inputs by itself."""
    return node.op_type in ("Constant", "ConstantOfShape") or all(_is_weight(value) for value in node.inputs)


def paired_inputs(first: Model, second: Model) -> dict[onnx_ir.Value, onnx_ir.Value]:
    """Return for the inputs of the second graph those of the first: by name, those left over by position."""
    ours = {value.name: value for value in first.graph.graph.inputs}
    theirs = {value.name: value for value in second.graph.graph.inputs}
    names = pair([spec.name for spec in second.inputs], [spec.name for spec in first.inputs])
    return {theirs[name]: ours[other] for name, other in names.items()}


def _named_twin(node: onnx_ir.Node, by_name: Mapping[str | None, onnx_ir.Value]) -> onnx_ir.Node | None:
    named = by_name.get(node.outputs[0].name)
    twin = None if named is None else named.producer()
    return twin if twin is not None and twin.op_type == node.op_type else None


def _computed_twin(
    node: onnx_ir.Node,
    matched: Mapping[onnx_ir.Value, onnx_ir.Value],
    users: Mapping[tuple[str, onnx_ir.Value], list[onnx_ir.Node]],
    taken: set[onnx_ir.Node],
) -> onnx_ir.Node | None:
    inputs = [value for value in node.inputs if not _is_weight(value)]
    if not inputs or inputs[0] not in matched:
        return None
    wanted = [matched.get(value) if value is not None else None for value in inputs]
    for twin in users.get((node.op_type, matched[inputs[0]]), []):
        if twin not in taken and [value for value in twin.inputs if not _is_weight(value)] == wanted:
            return twin
    return None


def _users(model: Model) -> dict[tuple[str, onnx_ir.Value], list[onnx_ir.Node]]:
    """Operators by their type and the first of their inputs that is no weight, in their order."""
    found: dict[tuple[str, onnx_ir.Value], list[onnx_ir.Node]] = {}
    for node in model.graph.graph:
        for value in _first_computed(node):
            found.setdefault((node.op_type, value), []).append(node)
    return found


def _first_computed(node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
    for value in node.inputs:
        if value is not None and not _is_weight(value):
            yield value
            return


def _is_weight(value: onnx_ir.Value | None) -> bool:
    if value is None or value.is_initializer():
        return True
    node = value.producer()
    return node is not None and node.op_type == "Constant"
