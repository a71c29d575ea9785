"""Convolutions that end a network and see all of their input at once, written as the products that they are.

Engines round what a convolution gives to 8 bits, and give the sums of a product as they are. Before a Softmax that
matters: logits from -12 to 19 have steps of 0.12, which puts probabilities off by up to 6 %.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tightship.core.graph import operator_name
from tightship.passes.editing import add_constant, constant, known_constant, replace, reshape
from tightship.passes.placement import COMPUTING, FOLLOWING

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["last_products"]

_MOVING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

_READ_IN_8_BITS = frozenset({*COMPUTING, *FOLLOWING, "Clip", "Relu"})


def last_products(graph: onnx_ir.Model) -> None:
    """Write, in place, each Conv whose kernel covers its input and whose result nobody reads in 8 bits as a Gemm.

    x [M, C, h, w] -> Conv W [N, C, h, w], b        becomes        x -> Reshape [M, C h w] -> Gemm W, b -> Reshape
    """
    for node in list(graph.graph):
        if node.op_type == "Conv" and node.domain == "" and _covers_its_input(node) and _ends(node.outputs[0]):
            _write(graph, node)


def _write(graph: onnx_ir.Model, node: onnx_ir.Node) -> None:
    import onnx_ir

    name, x, weight = operator_name(node), node.inputs[0], known_constant(node.inputs[1]).numpy()
    n_outputs, n_inputs = len(weight), math.prod(weight.shape[1:])
    matrix = add_constant(graph, f"{node.inputs[1].name}/matrix", weight.reshape(n_outputs, n_inputs))
    rows = reshape(graph, x, [-1, n_inputs], f"{name}/rows")
    gemm = onnx_ir.node("Gemm", [rows.outputs[0], matrix, *node.inputs[2:3]], {"transB": 1}, name=name)
    gemm.outputs[0].name = f"{name}/product"
    back = reshape(graph, gemm.outputs[0], [-1, n_outputs, *(1 for _ in weight.shape[2:])], f"{name}/image")
    replace(node, [rows, gemm, back], back.outputs)


def _covers_its_input(node: onnx_ir.Node) -> bool:
    weight, x = constant(node.inputs[1]), node.inputs[0]
    if weight is None or weight.dtype.name != "FLOAT" or x.shape is None or node.attributes.get_int("group", 1) != 1:
        return False
    kernel, attributes = tuple(weight.shape)[2:], node.attributes
    dense = all(step == 1 for step in attributes.get_ints("dilations", ())) or math.prod(kernel) == 1
    unpadded = not any(attributes.get_ints("pads", ())) and (
        attributes.get_string("auto_pad", "NOTSET") in {"NOTSET", "VALID"} or math.prod(kernel) == 1
    )
    return dense and unpadded and tuple(x.shape)[2:] == kernel


def _ends(value: onnx_ir.Value) -> bool:
    """Whether all that reads a value, moved at most, is the graph's output or stays float."""
    for node in value.consumers():
        if node.op_type in _MOVING and node.domain == "":
            if not all(map(_ends, node.outputs)):
                return False
        elif node.op_type in _READ_IN_8_BITS and node.domain == "":
            return False
    return True
