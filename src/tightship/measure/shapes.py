"""Shapes of all values of a graph, inferred without running it and without its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from tightship.core.model import Model

if TYPE_CHECKING:
    import onnx
    import onnx_ir

__all__ = ["Shape", "infer_shapes", "named_lengths"]

Shape = tuple[int, ...]

_LARGEST_KEPT_BYTES = 1024
"""Initializers up to this size keep their data: shapes and axes are among them."""

_STAND_IN_OPSET = 17
_FOLLOWS_COMPUTED_SHAPES_SINCE = 13

_SHAPED_LIKE_FIRST_INPUT = frozenset(
    {
        "Attention",
        "BiasGelu",
        "FastGelu",
        "Gelu",
        "GroupQueryAttention",
        "MultiHeadAttention",
        "QLinearLeakyRelu",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QuickGelu",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)


def infer_shapes(model: Model, lengths: Mapping[str, int] | None = None) -> dict[str, Shape]:
    """Return the shapes of the values that ONNX's shape inference can tell, by name, those of subgraphs too.

    Unknown axes of the inputs get the length that `lengths` gives for their name, else 1. Shapes stated in the file
    are not believed, since exporters and rewrites leave stale ones. Operators that ONNX Runtime contributes, which
    ONNX cannot infer, are replaced by standard ones of the same output shape.
    """
    import onnx
    import onnx_ir

    light = _without_weights(model.graph.clone(), lengths or {})
    for node in tuple(light.graph.all_nodes()):
        _stand_in(node, light)
    light.graph.opset_imports.setdefault("", _STAND_IN_OPSET)
    try:
        inferred = onnx.shape_inference.infer_shapes(_upgraded(onnx_ir.to_proto(light)), data_prop=True)
    except Exception:  # inference is a courtesy: what it cannot tell is reported as unknown
        return {}
    return dict(_known_shapes(inferred.graph))


def _upgraded(proto: onnx.ModelProto) -> onnx.ModelProto:
    # Sizes that a graph computes from other shapes are followed only at newer opsets.
    import onnx

    if max(entry.version for entry in proto.opset_import if not entry.domain) >= _FOLLOWS_COMPUTED_SHAPES_SINCE:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, _STAND_IN_OPSET)
    except Exception:  # the converter does not know every operator
        return proto


def named_lengths(shape: onnx_ir.Shape | None, lengths: Mapping[str, int]) -> Shape:
    """Return the shape with a length for every axis: its own, that of its name, or 1."""
    return tuple(dim if isinstance(dim, int) else lengths.get(dim.value or "", 1) for dim in shape or ())


def _without_weights(graph: onnx_ir.Model, lengths: Mapping[str, int]) -> onnx_ir.Model:
    import onnx_ir

    main = graph.graph
    for value in main.inputs:
        value.shape = onnx_ir.Shape(named_lengths(value.shape, lengths))
    for node in main.all_nodes():
        for value in node.outputs:
            value.shape = None
    for value in tuple(main.initializers.values()):
        tensor = value.const_value
        if tensor.nbytes > _LARGEST_KEPT_BYTES or isinstance(tensor, onnx_ir.ExternalTensor):
            main.initializers.pop(value.name)
            value.const_value = None
            value.type, value.shape = onnx_ir.TensorType(tensor.dtype), tensor.shape
            if value not in main.inputs:
                main.inputs.append(value)
    return graph


def _stand_in(node: onnx_ir.Node, model: onnx_ir.Model) -> None:
    if node.domain != "com.microsoft" and node.op_type != "SimplifiedLayerNormalization":
        return
    if node.op_type in _SHAPED_LIKE_FIRST_INPUT:
        _replace(node, "Identity", node.inputs[:1])
    elif node.op_type in _REPLACEMENTS:
        _REPLACEMENTS[node.op_type](node, model)


def _matmul_n_bits(node: onnx_ir.Node, model: onnx_ir.Model) -> None:
    shape = (node.attributes["K"].as_int(), node.attributes["N"].as_int())
    _replace(node, "MatMul", [node.inputs[0], _weight(node, model, shape)])


def _gather_block_quantized(node: onnx_ir.Node, model: onnx_ir.Model) -> None:
    bits = node.attributes["bits"].as_int() if "bits" in node.attributes else 4
    data = node.inputs[0]
    if data is None or data.shape is None or data.dtype is None:
        return
    rows, columns = data.shape.numpy()
    per_entry = 8 // bits if data.dtype.bitwidth == 8 else 1
    _replace(node, "Gather", [_weight(node, model, (rows, columns * per_entry)), node.inputs[1]])


def _rename(op_type: str, *positions: int) -> Callable[[onnx_ir.Node, onnx_ir.Model], None]:
    def replace(node: onnx_ir.Node, _model: onnx_ir.Model) -> None:
        _replace(node, op_type, [node.inputs[position] for position in positions])

    return replace


def _fused_matmul(node: onnx_ir.Node, model: onnx_ir.Model) -> None:
    if not any(node.attributes[name].as_int() for name in ("transA", "transB") if name in node.attributes):
        _rename("MatMul", 0, 1)(node, model)


def _fused_conv(node: onnx_ir.Node, _model: onnx_ir.Model) -> None:
    kept = {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"} & set(node.attributes)
    _replace(node, "Conv", node.inputs[:2], [node.attributes[name] for name in sorted(kept)])


_REPLACEMENTS: Mapping[str, Callable[[onnx_ir.Node, onnx_ir.Model], None]] = {
    "DynamicQuantizeMatMul": _rename("MatMul", 0, 1),
    "FusedConv": _fused_conv,
    "FusedMatMul": _fused_matmul,
    "GatherBlockQuantized": _gather_block_quantized,
    "MatMulIntegerToFloat": _rename("MatMul", 0, 1),
    "MatMulNBits": _matmul_n_bits,
    "QLinearAdd": _rename("Add", 0, 3),
    "QLinearMul": _rename("Mul", 0, 3),
}


def _weight(node: onnx_ir.Node, model: onnx_ir.Model, shape: Shape) -> onnx_ir.Value:
    import onnx_ir

    weight = onnx_ir.val(f"{node.outputs[0].name}/weight", dtype=onnx_ir.DataType.FLOAT, shape=shape)
    model.graph.inputs.append(weight)
    return weight


def _replace(
    node: onnx_ir.Node,
    op_type: str,
    inputs: list[onnx_ir.Value | None] | tuple[onnx_ir.Value | None, ...],
    attributes: list[onnx_ir.Attr] | tuple[onnx_ir.Attr, ...] = (),
) -> None:
    """Put a standard node in place of `node`, which computes its first output (and its fourth, a copy of the sum)."""
    import onnx_ir

    graph = node.graph
    if graph is None:
        return
    for old in node.outputs[0:4:3]:
        new = onnx_ir.node(op_type, inputs, {attribute.name: attribute for attribute in attributes})
        graph.insert_before(node, new)
        old.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
        old.name, new.outputs[0].name = f"{old.name}/replaced", old.name
    graph.remove(node)


def _known_shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, Shape]]:
    for info in (*graph.input, *graph.value_info, *graph.output):
        kind = info.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            yield info.name, tuple(dim.dim_value for dim in kind.shape.dim)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _known_shapes(attribute.g)
    for tensor in graph.initializer:
        yield tensor.name, tuple(tensor.dims)
