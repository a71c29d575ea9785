"""Matrix products with a bias, written so that ONNX Runtime computes them in integers, bias included.

Left as MatMul and Add, ONNX Runtime would merge them into a float Gemm before it looks at quantization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tightship.core.graph import operator_name
from tightship.passes.editing import add_constant, constant, drop_unused, known_constant, replace

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["merge_biases"]


def merge_biases(graph: onnx_ir.Model) -> None:
    """Rewrite, in place, each MatMul by a constant matrix whose product is only read by an Add of a constant vector.

    x [.., K] -> MatMul W -> Add b        becomes        x -> Reshape [M, K] -> Gemm W, b -> Reshape [.., N]

    Gemm keeps the name of MatMul. Where more than one leading axis has a length known only at run time, the bias
    becomes `[1, .., N]` instead, which keeps MatMul and Add apart.
    """
    for product in list(graph.graph):
        addition = _bias_addition(product)
        if addition is None:
            continue
        leading = [dim if isinstance(dim, int) else -1 for dim in list(product.inputs[0].shape)[:-1]]
        if leading.count(-1) <= 1:
            _merge(graph, product, addition, leading)
        else:
            _raise_rank(graph, addition, rank=len(leading) + 1)


def _bias_addition(product: onnx_ir.Node) -> onnx_ir.Node | None:
    """Return the Add that alone reads the product of `x`, of known rank 2 or more, and a constant float matrix."""
    if product.op_type != "MatMul" or product.domain != "":
        return None
    x, weight = product.inputs[0], constant(product.inputs[1])
    if weight is None or len(weight.shape) != 2 or weight.dtype.name != "FLOAT" or constant(x) is not None:
        return None
    readers = product.outputs[0].consumers()
    if x.shape is None or len(x.shape) < 2 or len(readers) != 1 or product.outputs[0].is_graph_output():
        return None
    addition = readers[0]
    if addition.op_type != "Add" or addition.domain != "" or addition.graph is not product.graph:
        return None
    bias = constant(addition.inputs[_bias_index(addition)])
    if bias is None or bias.dtype.name != "FLOAT" or not 1 <= len(bias.shape) <= len(x.shape):
        return None
    return addition if bias.size == bias.shape[-1] == weight.shape[1] else None


def _bias_index(addition: onnx_ir.Node) -> int:
    return 0 if constant(addition.inputs[0]) is not None else 1


def _merge(graph: onnx_ir.Model, product: onnx_ir.Node, addition: onnx_ir.Node, leading: list[int]) -> None:
    import onnx_ir

    name = operator_name(product)
    x, weight = product.inputs
    n_inputs, n_columns = known_constant(weight).shape
    bias = _with_shape(graph, addition.inputs[_bias_index(addition)], (n_columns,))
    if len(leading) == 1:
        gemm = onnx_ir.node("Gemm", [x, weight, bias], name=name)
        replace(addition, [gemm], gemm.outputs)
    else:
        rows = _reshape(graph, x, [-1, n_inputs], f"{name}/rows")
        gemm = onnx_ir.node("Gemm", [rows.outputs[0], weight, bias], name=name)
        gemm.outputs[0].name = f"{name}/product"
        back = _reshape(graph, gemm.outputs[0], [*leading, n_columns], f"{name}/reshape")
        replace(addition, [rows, gemm, back], back.outputs)
    graph.graph.remove(product, safe=True)


def _reshape(graph: onnx_ir.Model, value: onnx_ir.Value, shape: list[int], name: str) -> onnx_ir.Node:
    import onnx_ir

    node = onnx_ir.node("Reshape", [value, add_constant(graph, f"{name}/to", np.array(shape, np.int64))], name=name)
    node.outputs[0].name = name
    return node


def _raise_rank(graph: onnx_ir.Model, addition: onnx_ir.Node, rank: int) -> None:
    index = _bias_index(addition)
    bias = addition.inputs[index]
    n_columns = known_constant(bias).size
    addition.replace_input_with(index, _with_shape(graph, bias, (1,) * (rank - 1) + (n_columns,)))
    drop_unused(bias)


def _with_shape(graph: onnx_ir.Model, value: onnx_ir.Value, shape: tuple[int, ...]) -> onnx_ir.Value:
    """Return a constant that has this shape: the one given, or a reshaped copy."""
    tensor = known_constant(value)
    if tuple(tensor.shape) == shape:
        return value
    return add_constant(graph, f"{value.name}/reshaped", tensor.numpy().reshape(shape))
