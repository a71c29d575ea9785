"""What is done to a graph before it is lowered: functions inlined, types inferred, unknown operators refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tightship.bridges.onnx_to_torch.dtypes import CARRIERS
from tightship.bridges.onnx_to_torch.table import OPERATORS
from tightship.core.graph import MAX_PROTOBUF_BYTES, initializer_bytes, operator_name
from tightship.core.model import Model
from tightship.errors import InvalidModel, UnsupportedError, UnsupportedOperators, nearest

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["domain_of", "opset_of", "prepare"]

_NODES_NAMED = 3
"""Nodes that the message names per operator."""


def prepare(model: Model) -> onnx_ir.Model:
    """Return a copy that can be lowered. Raises `UnsupportedOperators`, `UnsupportedError` and `InvalidModel`."""
    import onnx_ir
    from onnx_ir.passes.common import InlinePass, ShapeInferencePass

    from tightship.bridges.onnx_to_torch import operators  # noqa: F401  (fills the tables)

    for spec in (*model.inputs, *model.outputs):
        if spec.dtype == "str":
            raise UnsupportedError(
                f"{spec.name} holds strings, and PyTorch has no tensors of strings; cut the text handling off the "
                "model, or run it with onnxruntime"
            )
    try:
        graph = model.graph.clone()
        if graph.functions:
            graph = InlinePass()(graph).model
        if _unknown(graph) and initializer_bytes(graph) < MAX_PROTOBUF_BYTES:
            graph = onnx_ir.from_proto(_expanded(onnx_ir.to_proto(graph), _unknown(graph)))
            graph = InlinePass()(graph).model if graph.functions else graph
        graph = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(graph).model
    except Exception as error:  # the inliner and onnx raise what their parts raise
        raise InvalidModel(f"the graph cannot be prepared: {str(error).strip()[:400]}") from error
    _check(graph)
    return graph


def domain_of(node: onnx_ir.Node) -> str:
    """Return the node's domain; ONNX's own has two names."""
    return "" if node.domain == "ai.onnx" else node.domain


def opset_of(graph: onnx_ir.Model, domain: str) -> int:
    """Return the version of a domain that the model imports; 1 where it imports none."""
    imports = graph.opset_imports
    version: int = imports.get(domain, imports.get("ai.onnx", 1) if domain == "" else 1)
    return version


def _nodes(graph: onnx_ir.Model) -> Iterator[onnx_ir.Node]:
    for subgraph in graph.graphs():
        yield from subgraph


def _unknown(graph: onnx_ir.Model) -> set[tuple[str, str]]:
    """Operators without an entry."""
    found = {(domain_of(node), node.op_type) for node in _nodes(graph)} - {("", "Constant")}
    return {(domain, name) for domain, name in found if OPERATORS.find(name, opset_of(graph, domain), domain) is None}


def _expanded(proto: onnx_ir.ModelProto, names: set[tuple[str, str]]) -> onnx_ir.ModelProto:
    """Write operators whose meaning ONNX defines by others with those others."""
    from onnx import inliner

    return inliner.inline_selected_functions(proto, sorted(names), inline_schema_functions=True)


def _check(graph: onnx_ir.Model) -> None:
    faults: dict[str, list[str]] = defaultdict(list)
    for node in _nodes(graph):
        fault = _fault(graph, node)
        if fault:
            faults[fault].append(operator_name(node))
    if faults:
        listed = "; ".join(
            f"{fault}, at {', '.join(names[:_NODES_NAMED])}"
            + (f" and {len(names) - _NODES_NAMED} more" if len(names) > _NODES_NAMED else "")
            for fault, names in sorted(faults.items())
        )
        raise UnsupportedOperators(
            f"PyTorch has no counterpart for {len(faults)} operators of this model: {listed}. Replace them in the "
            "source model, or run the graph with onnxruntime"
        )


def _fault(graph: onnx_ir.Model, node: onnx_ir.Node) -> str:
    """Say what is wrong with a node, or nothing."""
    domain = domain_of(node)
    full = f"{domain}::{node.op_type}" if domain else node.op_type
    values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.dtype is not None]
    if any(str(value.dtype.name).lower() not in CARRIERS for value in values if value.dtype is not None):
        return f"{full} on strings (PyTorch has no tensors of strings)"
    opset = opset_of(graph, domain)
    if (domain, node.op_type) == ("", "Constant"):
        return _constant_fault(node)
    entry = OPERATORS.find(node.op_type, opset, domain)
    if entry is None:
        oldest = OPERATORS.oldest(node.op_type, domain)
        if oldest:
            return f"{full} of opset {opset} (opset {oldest.since} is supported: upgrade the model)"
        return full + nearest(node.op_type, OPERATORS.names(domain))
    unknown, missing = entry.unknown(node.attributes), entry.missing(node.attributes)
    if unknown:
        return f"{full} with attribute {', '.join(unknown)}, which is not known"
    if missing:
        return f"{full} without its attribute {', '.join(missing)}"
    return _schema_fault(node, opset, domain, full)


def _constant_fault(node: onnx_ir.Node) -> str:
    if "sparse_value" in node.attributes:
        return "Constant with a sparse value"
    return "" if len(node.attributes) == 1 and node.outputs else "Constant without a value"


def _schema_fault(node: onnx_ir.Node, opset: int, domain: str, full: str) -> str:
    """Compare a node with ONNX's schema: the numbers of its inputs and outputs, and the types of its attributes."""
    from onnx import defs

    if not defs.has(node.op_type, domain):
        return ""
    schema = defs.get_schema(node.op_type, opset, domain)
    for kind, n, least, most in (
        ("inputs", len(node.inputs), schema.min_input, schema.max_input),
        ("outputs", len(node.outputs), schema.min_output, schema.max_output),
    ):
        if not least <= n <= most:
            return f"{full} with {n} {kind}, expected {least if n < least else most}"
    for name, attribute in node.attributes.items():
        known = schema.attributes.get(name)
        if known is not None and int(known.type.value) != int(attribute.type):
            return f"{full} with attribute {name} of type {attribute.type.name}, expected {known.type.name}"
    return ""
