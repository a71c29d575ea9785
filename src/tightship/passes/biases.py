"""Biases that are added behind an operator, moved into it, so that engines add them in integers with the products.

Left as MatMul and Add, ONNX Runtime would even merge them into a float Gemm before it looks at quantization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tightship.core.graph import operator_name
from tightship.passes.editing import add_constant, constant, drop_unused, known_constant, replace, reshape

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["give_biases", "merge_biases"]


def merge_biases(graph: onnx_ir.Model) -> None:
    """Move into each Conv and MatMul, in place, the constant float bias that an Add alone adds to its output."""
    for node in list(graph.graph):
        addition = _only_reader(node, "Add")
        if addition is None or _float_constant(addition.inputs[_bias_index(addition)]) is None:
            continue
        if node.op_type == "Conv":
            _into_convolution(graph, node, addition)
        elif node.op_type == "MatMul":
            _into_product(graph, node, addition)


def give_biases(graph: onnx_ir.Model) -> None:
    """Give each Conv and Gemm with a constant float weight and no bias one of zeros, in place.

    x -> Conv W        becomes        x -> Conv W, 0
    """
    for node in graph.graph:
        if node.domain != "" or node.op_type not in {"Conv", "Gemm"}:
            continue
        weight = _float_constant(node.inputs[1])
        if weight is None or (len(node.inputs) > 2 and node.inputs[2] is not None):
            continue
        axis = 1 if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0) else 0
        zeros = add_constant(graph, f"{operator_name(node)}/bias", np.zeros(weight.shape[axis], np.float32))
        node.resize_inputs(3)
        node.replace_input_with(2, zeros)


def _into_convolution(graph: onnx_ir.Model, node: onnx_ir.Node, addition: onnx_ir.Node) -> None:
    """x -> Conv W -> Add b [C, 1, 1]        becomes        x -> Conv W, b"""
    import onnx_ir

    weight = _float_constant(node.inputs[1])
    bias = addition.inputs[_bias_index(addition)]
    if weight is None or len(node.inputs) > 2:
        return
    rank, n_channels = len(weight.shape), weight.shape[0]
    shape = tuple(known_constant(bias).shape)
    if len(shape) > rank or (1,) * (rank - len(shape)) + shape != (1, n_channels, *(1,) * (rank - 2)):
        return
    inputs = [*node.inputs, _with_shape(graph, bias, (n_channels,))]
    merged = onnx_ir.node("Conv", inputs, node.attributes, name=operator_name(node))
    replace(addition, [merged], merged.outputs)
    graph.graph.remove(node, safe=True)


def _into_product(graph: onnx_ir.Model, node: onnx_ir.Node, addition: onnx_ir.Node) -> None:
    """x [.., K] -> MatMul W -> Add b        becomes        x -> Reshape [M, K] -> Gemm W, b -> Reshape [.., N]

    Where more than one leading axis has a length known only at run time, the bias becomes `[1, .., N]` instead, which
    ONNX Runtime does not merge.
    """
    x, weight = node.inputs[0], _float_constant(node.inputs[1])
    bias = addition.inputs[_bias_index(addition)]
    shape = tuple(known_constant(bias).shape)
    if weight is None or len(weight.shape) != 2 or x.shape is None or not 1 <= len(shape) <= len(x.shape) >= 2:
        return
    n_columns = weight.shape[1]
    if shape != (1,) * (len(shape) - 1) + (n_columns,):
        return
    leading = [dim if isinstance(dim, int) else -1 for dim in list(x.shape)[:-1]]
    if leading.count(-1) <= 1:
        _as_gemm(graph, node, addition, _with_shape(graph, bias, (n_columns,)), leading)
    else:
        raised = _with_shape(graph, bias, (*(1 for _ in leading), n_columns))
        addition.replace_input_with(_bias_index(addition), raised)
        drop_unused(bias)


def _as_gemm(
    graph: onnx_ir.Model, node: onnx_ir.Node, addition: onnx_ir.Node, bias: onnx_ir.Value, leading: list[int]
) -> None:
    import onnx_ir

    name = operator_name(node)
    x, weight = node.inputs
    if len(leading) == 1:
        gemm = onnx_ir.node("Gemm", [x, weight, bias], name=name)
        replace(addition, [gemm], gemm.outputs)
    else:
        n_inputs, n_columns = known_constant(weight).shape
        rows = reshape(graph, x, [-1, n_inputs], f"{name}/rows")
        gemm = onnx_ir.node("Gemm", [rows.outputs[0], weight, bias], name=name)
        gemm.outputs[0].name = f"{name}/product"
        back = reshape(graph, gemm.outputs[0], [*leading, n_columns], f"{name}/reshape")
        replace(addition, [rows, gemm, back], back.outputs)
    graph.graph.remove(node, safe=True)


def _only_reader(node: onnx_ir.Node, op_type: str) -> onnx_ir.Node | None:
    value = node.outputs[0]
    readers = value.consumers()
    if len(readers) != 1 or len(value.uses()) != 1 or value.is_graph_output() or node.domain != "":
        return None
    reader = readers[0]
    return reader if (reader.op_type, reader.domain, reader.graph) == (op_type, "", node.graph) else None


def _bias_index(addition: onnx_ir.Node) -> int:
    return 0 if constant(addition.inputs[0]) is not None else 1


def _float_constant(value: onnx_ir.Value | None) -> onnx_ir.TensorProtocol | None:
    tensor = constant(value)
    return tensor if tensor is not None and tensor.dtype.name == "FLOAT" else None


def _with_shape(graph: onnx_ir.Model, value: onnx_ir.Value, shape: tuple[int, ...]) -> onnx_ir.Value:
    """Return a constant of this shape: the one given, or a reshaped copy."""
    tensor = known_constant(value)
    if tuple(tensor.shape) == shape:
        return value
    return add_constant(graph, f"{value.name}/reshaped", tensor.numpy().reshape(shape))
