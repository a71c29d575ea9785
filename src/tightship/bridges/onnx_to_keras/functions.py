"""Operators that ONNX defines by other operators, taken apart into those."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.bridges.onnx_to_keras.values import Numbers, Tensor, Value

if TYPE_CHECKING:
    import onnx
    import onnx_ir

__all__ = ["has_function", "taken_apart"]


def has_function(node: onnx_ir.Node, opset: int) -> bool:
    """Whether ONNX tells the operator in terms of others."""
    schema = _schema(node, opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def taken_apart(node: onnx_ir.Node, inputs: Sequence[Value], opset: int) -> onnx_ir.Graph | None:
    """Return a graph with the node's inputs and outputs that computes the same; None where ONNX tells none.

    Inputs that are left out are no inputs of the graph.
    """
    import onnx
    import onnx_ir
    from onnx import inliner

    schema = _schema(node, opset)
    proto = onnx_ir.to_proto(node)
    types = [_type(value) for value in inputs]
    if schema is None or any(value is not None and kind is None for value, kind in zip(inputs, types, strict=True)):
        return None
    body = _body(schema, proto, [kind or onnx.TypeProto() for kind in types], opset)
    if body is None:
        return None
    taken = {attribute.name for attribute in proto.attribute}
    proto.attribute.extend(
        attribute.default_value
        for name, attribute in schema.attributes.items()
        if name in body.attribute and name not in taken and attribute.default_value.name
    )
    body.domain, body.name, proto.domain, proto.op_type = "taken.apart", node.op_type, "taken.apart", node.op_type
    given = [(name, kind) for name, kind in zip(proto.input, types, strict=True) if name and kind is not None]
    graph = onnx.helper.make_graph(
        [proto],
        "taken_apart",
        [onnx.ValueInfoProto(name=name, type=kind) for name, kind in dict(given).items()],
        [onnx.ValueInfoProto(name=name) for name in proto.output if name],
    )
    opsets = [*body.opset_import, onnx.helper.make_opsetid("taken.apart", 1)]
    model = onnx.helper.make_model(graph, functions=[body], opset_imports=opsets)
    return onnx_ir.from_proto(inliner.inline_local_functions(model)).graph


def _schema(node: onnx_ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    import onnx

    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def _body(
    schema: onnx.defs.OpSchema, proto: onnx.NodeProto, types: Sequence[onnx.TypeProto], opset: int
) -> onnx.FunctionProto | None:
    import onnx

    def newest(versions: Sequence[int]) -> int:
        return max((version for version in versions if version <= opset), default=min(versions, default=0))

    if schema.has_function:
        data = schema.get_function_with_opset_version(newest(schema.function_opset_versions))
    elif schema.has_context_dependent_function:
        data = schema.get_context_dependent_function_with_opset_version(
            newest(schema.context_dependent_function_opset_versions),
            proto.SerializeToString(),
            [kind.SerializeToString() for kind in types],
        )
    else:
        return None
    if not data:
        return None
    body = onnx.FunctionProto()
    body.ParseFromString(data)
    return body


def _type(value: Value) -> Any:
    import onnx
    import onnx_ir

    if not isinstance(value, Tensor | Numbers | np.ndarray):
        return None
    code = onnx_ir.DataType.from_numpy(np.dtype(str(value.dtype))).value
    count = itertools.count()
    shape = [f"free_{next(count)}" if length is None else int(length) for length in value.shape]
    return onnx.helper.make_tensor_type_proto(code, shape)
