"""A graph in another version of ONNX's operators.

Up by ONNX's own converters. Down they know few operators, so there each operator is written as the older version has
it: what has become an input is an attribute again where it is constant, and what is new is left out where it is at its
default. Both are inexact for some operators, so the result wants proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tightship.core.graph import from_ir, operator_name, quiet_libraries
from tightship.core.model import Model, Step
from tightship.errors import UnsupportedError, UnsupportedOperators

if TYPE_CHECKING:
    import onnx
    import onnx_ir

__all__ = ["at_opset", "upgrade"]

_OPSET_OF_RESIZE_GRIDS = 11

_IR_VERSIONS = dict(
    zip(range(7, 29), (3, 3, 4, 5, 6, 7, 7, 7, 8, 8, 8, 8, 9, 9, 10, 10, 11, 12, 13, 13, 13, 14), strict=True)
)
"""The format's version that came with each opset (onnx/docs/Versioning.md)."""

_OLD_NAMES = {("Pad", "constant_value"): "value", ("TopK", "K"): "k"}
"""What an input was called while it was an attribute, where it has changed its name."""


_NEUTRAL = {("Slice", "steps"): 1}
"""What a new input must hold throughout to mean what the operator did before it had it."""


def at_opset(model: Model, opset: int) -> Model:
    """Return a graph at this opset.

    Raises `UnsupportedOperators` where operators have no form there, `UnsupportedError` where the converter fails.
    """
    found = model.graph.opset_imports.get("", opset)
    if found == opset:
        return model
    graph = model.graph.clone(deep_copy=True)
    if opset < found:
        _downgrade(graph, opset)
    elif reason := upgrade(graph, opset):
        raise UnsupportedError(f"the graph is at opset {found} and cannot be written at {opset}: {reason}")
    graph.ir_version = _IR_VERSIONS.get(opset, graph.ir_version)
    return from_ir(graph, (*model.history, Step("opset", {"opset": opset})))


def upgrade(graph: onnx_ir.Model, opset: int) -> str:
    """Convert a graph in place to a newer opset; return why that was not possible, or an empty string."""
    from onnxscript.version_converter import ConvertVersionPass

    before = graph.opset_imports.get("", opset)
    try:
        with quiet_libraries():
            ConvertVersionPass(opset, fallback=True)(graph)
    except Exception as error:  # the converter raises many types, some of them from C++
        return f"conversion failed ({str(error).partition(chr(10))[0]})"
    if graph.opset_imports.get("") != opset:
        return f"an operator has no conversion to opset {opset}"
    if before < _OPSET_OF_RESIZE_GRIDS:
        for node in (node for subgraph in graph.graphs() for node in subgraph):
            _pin_resize(node)
    return ""


def _pin_resize(node: onnx_ir.Node) -> None:
    """Write down what Resize and Upsample meant before opset 11, which the converter leaves to later defaults."""
    import onnx_ir

    if node.op_type == "Resize" and node.domain == "":
        for key, meant in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
            node.attributes[key] = onnx_ir.AttrString(key, meant)


def _downgrade(graph: onnx_ir.Model, opset: int) -> None:
    found = graph.opset_imports[""]
    problems = []
    for node in (node for subgraph in graph.graphs() for node in subgraph if node.domain == ""):
        reasons = list(_rewrite(node, found, opset))
        problems += [f"{node.op_type} {operator_name(node)!r}: {reason}" for reason in reasons]
    if problems:
        raise UnsupportedOperators(
            f"{len(problems)} operators of opset {found} have no form at opset {opset}: {'; '.join(problems)}; "
            "choose a later --opset"
        )
    for subgraph in graph.graphs():
        subgraph.opset_imports[""] = opset
    graph.opset_imports[""] = opset


def _rewrite(node: onnx_ir.Node, found: int, opset: int) -> Iterator[str]:
    """Write a node as the older opset has it; yield what stands in the way."""
    new, old = _schema(node.op_type, found), _schema(node.op_type, opset)
    if new is None or old is None:
        yield f"it came with opset {new.since_version}" if new is not None else "it is unknown"
        return
    if new.since_version == old.since_version:
        return
    yield from _inputs_to_attributes(node, new, old)
    for name in [name for name in node.attributes if name not in old.attributes]:
        if node.attributes[name].value == _default(new, name):
            del node.attributes[name]
        else:
            yield f"attribute {name} was not there"


def _inputs_to_attributes(node: onnx_ir.Node, new: onnx.defs.OpSchema, old: onnx.defs.OpSchema) -> Iterator[str]:
    import onnx_ir

    for index in reversed(range(len(old.inputs), len(node.inputs))):
        value = node.inputs[index]
        name = new.inputs[min(index, len(new.inputs) - 1)].name
        attribute = _OLD_NAMES.get((node.op_type, name), name)
        if value is not None and len(old.inputs) and _variadic(old):
            return
        if value is not None:
            array = onnx_ir.convenience.get_const_tensor(value)
            neutral = _NEUTRAL.get((node.op_type, name))
            if neutral is not None and array is not None and (array.numpy() == neutral).all():
                continue
            if attribute not in old.attributes:
                yield f"input {name} was not there"
                continue
            if array is None:
                yield f"{attribute} was an attribute, and is computed here"
                continue
            plain = array.numpy().tolist()
            node.attributes[attribute] = onnx_ir.convenience.convert_attribute(attribute, plain)
    if len(node.inputs) > len(old.inputs) and not _variadic(old):
        node.resize_inputs(len(old.inputs))


def _variadic(schema: onnx.defs.OpSchema) -> bool:
    import onnx

    return bool(schema.inputs) and schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic


def _default(schema: onnx.defs.OpSchema, name: str) -> Any:
    import onnx

    if name not in schema.attributes or not schema.attributes[name].default_value.name:
        return None
    value = onnx.helper.get_attribute_value(schema.attributes[name].default_value)
    return value.decode() if isinstance(value, bytes) else value


def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    import onnx

    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
