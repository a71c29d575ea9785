"""Shapes of all values of a graph, inferred operator by operator without running it or reading its weights.

ONNX infers each operator. What shapes are computed from (lengths, indices, axes) is followed here: ONNX's own data
propagation unrolls every vector, so that one declared with 2^32 elements fills the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tightship.core.model import Model

if TYPE_CHECKING:
    import onnx
    import onnx_ir

__all__ = ["Shape", "infer_shapes"]

Shape = tuple[int, ...]

_MOST_ELEMENTS_FOLLOWED = 256

_RESHAPES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_COMPUTES_SHAPES = _RESHAPES | {"Abs", "Add", "And", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand"}
_COMPUTES_SHAPES |= {"Floor", "Gather", "Greater", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range"}
_COMPUTES_SHAPES |= {"ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ScatterND", "Slice", "Split", "Sqrt", "Sub"}
_COMPUTES_SHAPES |= {"Transpose", "Where"}


_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
"""Operators of ONNX Runtime that are a standard one followed by an activation."""


def infer_shapes(model: Model, lengths: Mapping[str, int] | None = None) -> dict[str, Shape]:
    """Return the shapes that can be told, by value name, those of subgraphs too.

    Unknown axes of the inputs get the length that `lengths` gives for their name, else 1. Shapes stated in the file
    are not believed, since exporters and rewrites leave stale ones.
    """
    inference = _Inference(model.graph, lengths or {})
    inference.visit(model.graph.graph)
    return inference.shapes


class _Inference:
    def __init__(self, model: onnx_ir.Model, lengths: Mapping[str, int]) -> None:
        self.shapes: dict[str, Shape] = {}
        self._types: dict[str, onnx.TypeProto] = {}
        self._data: dict[str, np.ndarray] = {}
        self._opsets = dict(model.opset_imports)
        for value in model.graph.inputs:
            if value.dtype is not None and value.shape is not None:
                shape = (dim if isinstance(dim, int) else lengths.get(dim.value or "", 1) for dim in value.shape)
                self._know(value, value.dtype, tuple(shape))

    def visit(self, graph: onnx_ir.Graph) -> None:
        """Infer all operators of a graph in their order."""
        for value in graph.initializers.values():
            self._know_tensor(value, value.const_value)
        for node in graph:
            try:
                self._infer(node)
            except Exception:  # what ONNX cannot infer, for whatever reason, stays unknown, and so does what follows
                continue

    def _infer(self, node: onnx_ir.Node) -> None:
        for body in _subgraphs(node):
            self.visit(body)
        if node.op_type == "Constant":
            self._know_tensor(node.outputs[0], _constant_tensor(node))
        elif node.op_type == "If":
            self._join_branches(node)
        elif (node.domain == "com.microsoft" or node.op_type.startswith("Simplified")) and node.op_type in _CONTRIBUTED:
            self._infer_contributed(node)
        else:
            self._infer_standard(node)
            self._follow(node)

    def _infer_contributed(self, node: onnx_ir.Node) -> None:
        shape, dtype = (
            _CONTRIBUTED[node.op_type](node, [self._shape(value) for value in node.inputs]),
            self._dtype(node),
        )
        for value in node.outputs[0:4:3]:  # the fourth is the sum that a fused addition made on the way
            self._know(value, value.dtype or dtype, shape)
        for value in node.outputs[1:3] if node.op_type.endswith("LSTM") else ():  # the last states
            self._know(value, value.dtype or dtype, shape[1:])

    def _infer_standard(self, node: onnx_ir.Node) -> None:
        import onnx

        proto = _standard_proto(node)
        schema = onnx.defs.get_schema(proto.op_type, self._opsets.get(proto.domain, 1), proto.domain)
        given = [value for value in node.inputs if value is not None and value.name in self._types]
        data = {
            value.name: onnx.numpy_helper.from_array(self._data[value.name])
            for value in given
            if value.name in self._data
        }
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        types = {value.name: self._types[value.name] for value in given}
        inferred = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, None, opsets)
        for value in node.outputs:
            if value.name in inferred:
                self._types[value.name] = inferred[value.name]
                dims = inferred[value.name].tensor_type.shape.dim
                if inferred[value.name].tensor_type.HasField("shape") and all(
                    dim.HasField("dim_value") for dim in dims
                ):
                    self.shapes[value.name] = tuple(dim.dim_value for dim in dims)

    def _follow(self, node: onnx_ir.Node) -> None:
        """Compute small whole vectors, which may be shapes."""
        output = node.outputs[0].name or ""
        if node.op_type in ("Shape", "Size"):
            shape = self._shape(node.inputs[0])
            ends = [node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end")]
            self._data[output] = np.array(
                shape[slice(*ends)] if node.op_type == "Shape" else math.prod(shape), np.int64
            )
        elif node.op_type in _COMPUTES_SHAPES and math.prod(self.shapes[output]) <= _MOST_ELEMENTS_FOLLOWED:
            inputs = {value.name: self._data[value.name] for value in node.inputs if value is not None}
            self._data[output] = self._compute(node, inputs)

    def _compute(self, node: onnx_ir.Node, inputs: dict[str, np.ndarray]) -> np.ndarray:
        import onnx_ir
        from onnx.reference import ReferenceEvaluator

        output = node.outputs[0].name or ""
        if node.op_type in _RESHAPES:
            dtype = onnx_ir.DataType(self._types[output].tensor_type.elem_type).numpy()
            return next(iter(inputs.values())).astype(dtype).reshape(self.shapes[output])
        with np.errstate(all="ignore"):
            result = ReferenceEvaluator(onnx_ir.to_proto(node)).run(None, inputs)[0]
        return np.asarray(result).reshape(self.shapes[output])

    def _join_branches(self, node: onnx_ir.Node) -> None:
        branches = [body.outputs for body in _subgraphs(node)]
        for value, *results in zip(node.outputs, *branches, strict=True):
            shapes = {self._shape(result) for result in results}
            if len(shapes) == 1:
                self._know(value, results[0].dtype or value.dtype, shapes.pop())

    def _shape(self, value: onnx_ir.Value | None) -> Shape:
        """The shape of an input that is there; a `KeyError` ends the inference of the operator."""
        return () if value is None else self.shapes[value.name or ""]

    def _dtype(self, node: onnx_ir.Node) -> onnx_ir.DataType:
        """The type of the first input that is no scale; float32 where that holds indices or packed weights."""
        import onnx_ir

        source = node.inputs[2 if node.op_type == "QLinearConcat" else 0]
        known = self._types.get(source.name or "") if source is not None else None
        dtype = onnx_ir.DataType(known.tensor_type.elem_type) if known is not None else onnx_ir.DataType.FLOAT
        keeps = dtype.is_floating_point() or node.op_type.startswith(("QLinear", "QGemm"))
        return dtype if keeps else onnx_ir.DataType.FLOAT

    def _know(self, value: onnx_ir.Value, dtype: onnx_ir.DataType | None, shape: Shape) -> None:
        import onnx

        name = value.name or ""
        self.shapes[name] = shape
        self._types[name] = onnx.helper.make_tensor_type_proto(dtype.value if dtype else 1, shape)

    def _know_tensor(self, value: onnx_ir.Value, tensor: onnx_ir.TensorProtocol | None) -> None:
        if tensor is None:
            return
        self._know(value, tensor.dtype, tuple(int(dim) for dim in tensor.shape.numpy()))
        if tensor.size <= _MOST_ELEMENTS_FOLLOWED:
            self._data[value.name or ""] = tensor.numpy()


def _constant_tensor(node: onnx_ir.Node) -> onnx_ir.TensorProtocol:
    import onnx_ir

    if "value" in node.attributes:
        return node.attributes["value"].as_tensor()
    value = next(iter(node.attributes.values())).value
    whole = isinstance(value, int) or (not isinstance(value, float) and isinstance(value[0], int))
    return onnx_ir.tensor(np.array(value, np.int64 if whole else np.float32))


def _standard_proto(node: onnx_ir.Node) -> onnx.NodeProto:
    """The node, or the standard operator that it is up to an activation."""
    import onnx
    import onnx_ir

    if node.op_type not in _FUSED:
        return onnx_ir.to_proto(node)
    inputs = [value.name or "" for value in node.inputs[:3] if value is not None]
    attributes = [onnx_ir.to_proto(entry) for name, entry in node.attributes.items() if "activation" not in name]
    outputs = [value.name or "" for value in node.outputs[:1]]
    return onnx.NodeProto(op_type=_FUSED[node.op_type], input=inputs, output=outputs, attribute=attributes)


def _subgraphs(node: onnx_ir.Node) -> Iterator[onnx_ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type.name == "GRAPH":
            yield attribute.as_graph()


ShapeRule = Callable[["onnx_ir.Node", Sequence[Shape]], Shape]


def _like(position: int) -> ShapeRule:
    return lambda _node, shapes: shapes[position]


def _broadcast(*positions: int) -> ShapeRule:
    return lambda _node, shapes: tuple(np.broadcast_shapes(*(shapes[position] for position in positions)))


def _product(node: onnx_ir.Node, shapes: Sequence[Shape]) -> Shape:
    first, second = (
        (*shape[:-2], shape[-1], shape[-2]) if _attribute(node, name, 0) else shape
        for shape, name in zip(shapes[:2], ("transA", "transB"), strict=True)
    )
    return (*np.broadcast_shapes(first[:-2], second[:-2]), first[-2], second[-1])


def _recurrence(node: onnx_ir.Node, shapes: Sequence[Shape]) -> Shape:
    steps, batch, _ = shapes[0]
    return (steps, shapes[1][0], batch, _attribute(node, "hidden_size", 0))


def _concatenation(node: onnx_ir.Node, shapes: Sequence[Shape]) -> Shape:
    # Inputs are the scale and zero point of the output, then data, scale and zero point of each part.
    parts, axis = shapes[2::3], _attribute(node, "axis", 0) % len(shapes[2])
    return tuple(sum(part[i] for part in parts) if i == axis else length for i, length in enumerate(parts[0]))


def _global_pool(node: onnx_ir.Node, shapes: Sequence[Shape]) -> Shape:
    shape = shapes[0]
    ones = (1,) * (len(shape) - 2)
    return (shape[0], *ones, shape[-1]) if _attribute(node, "channels_last", 0) else (*shape[:2], *ones)


def _low_bit_product(node: onnx_ir.Node, shapes: Sequence[Shape]) -> Shape:
    return (*shapes[0][:-1], _attribute(node, "N", 0))


def _low_bit_lookup(node: onnx_ir.Node, shapes: Sequence[Shape]) -> Shape:
    table, indices = shapes[:2]
    packed = node.inputs[0] is not None and node.inputs[0].dtype is not None and node.inputs[0].dtype.bitwidth == 8
    return (*indices, *table[1:-1], table[-1] * (8 // _attribute(node, "bits", 4) if packed else 1))


def _attribute(node: onnx_ir.Node, name: str, default: int) -> int:
    return int(node.attributes[name].as_int()) if name in node.attributes else default


_CONTRIBUTED: Mapping[str, ShapeRule] = {
    "Attention": lambda _node, shapes: (*shapes[0][:-1], shapes[1][-1] // 3),
    "BiasGelu": _like(0),
    "DynamicQuantizeLSTM": _recurrence,
    "DynamicQuantizeMatMul": _product,
    "EmbedLayerNormalization": lambda _node, shapes: (*shapes[0], shapes[2][-1]),
    "FastGelu": _like(0),
    "FusedMatMul": _product,
    "Gelu": _like(0),
    "GatherBlockQuantized": _low_bit_lookup,
    "GroupQueryAttention": _like(0),
    "MatMulIntegerToFloat": _product,
    "MatMulNBits": _low_bit_product,
    "MultiHeadAttention": _like(0),
    "QGemm": lambda node, shapes: _product(node, (shapes[0], shapes[3])),
    "QLinearAdd": _broadcast(0, 3),
    "QLinearConcat": _concatenation,
    "QLinearGlobalAveragePool": _global_pool,
    "QLinearLeakyRelu": _like(0),
    "QLinearMul": _broadcast(0, 3),
    "QLinearSigmoid": _like(0),
    "QLinearSoftmax": _like(0),
    "QuickGelu": _like(0),
    "RotaryEmbedding": _like(0),
    "SimplifiedLayerNormalization": _like(0),
    "SkipLayerNormalization": _like(0),
    "SkipSimplifiedLayerNormalization": _like(0),
}
"""Shapes of the first output of operators that ONNX Runtime contributes."""
