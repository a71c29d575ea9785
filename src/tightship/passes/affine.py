"""Products and sums with a constant per channel, as normalizations are at inference, moved into the convolution before.

Exporters that take normalizations apart (tf2onnx) leave Mul and Add behind the convolution. There they cost time, and 8
bits for the tensor between, whose channels differ much more than those of the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tightship.passes.editing import add_constant, constant, drop_unused, known_constant, weight_array

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["merge_affine"]


def merge_affine(graph: onnx_ir.Model) -> None:
    """Move into each Conv, in place, what is multiplied with its output, or added to it, channel by channel.

    x -> Conv W, b -> Mul s -> Add t        becomes        x -> Conv s W, s b + t

    A bias alone stays where it is: `merge_biases` knows when it pays to move it.
    """
    for node in list(graph.graph):
        if node.op_type != "Conv" or node.domain != "" or not _is_constant(node):
            continue
        while (step := _next_step(node)) is not None and not (step.op_type == "Add" and len(node.inputs) == 2):
            _merge(graph, node, step)


def _merge(graph: onnx_ir.Model, node: onnx_ir.Node, step: onnx_ir.Node) -> None:
    weight = node.inputs[1]
    index = _constant_index(step)
    factor = known_constant(step.inputs[index]).numpy().astype(np.float64).reshape(-1)
    bias = weight_array(node.inputs[2]) if len(node.inputs) > 2 else None
    name = step.outputs[0].name
    if step.op_type == "Mul":
        scaled = weight_array(weight) * factor.reshape(-1, *(1,) * (len(weight.shape) - 1))
        _give(graph, node, 1, f"{name}/weight", scaled)
        if bias is not None:
            _give(graph, node, 2, f"{name}/bias", bias * factor)
    else:
        assert bias is not None
        _give(graph, node, 2, f"{name}/bias", bias + factor)
    after, result = step.outputs[0], node.outputs[0]
    operand = step.inputs[index]
    after.replace_all_uses_with(result, replace_graph_outputs=True)
    result.name, after.name = name, None
    graph.graph.remove(step, safe=True)
    drop_unused(operand)


def _give(graph: onnx_ir.Model, node: onnx_ir.Node, index: int, name: str, array: np.ndarray) -> None:
    before = node.inputs[index]
    node.replace_input_with(index, add_constant(graph, name, array.astype(np.float32)))
    drop_unused(before)


def _next_step(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """The Mul or Add by constants per channel that alone reads the output of a convolution."""
    value = node.outputs[0]
    readers = value.consumers()
    if len(readers) != 1 or len(value.uses()) != 1 or value.is_graph_output():
        return None
    step = readers[0]
    if (step.domain, step.graph) != ("", node.graph) or step.op_type not in ("Mul", "Add"):
        return None
    tensor = constant(step.inputs[_constant_index(step)])
    if tensor is None or tensor.dtype.name != "FLOAT":
        return None
    rank, n_channels = len(node.inputs[1].shape), node.inputs[1].shape[0]
    shape = tuple(tensor.shape)
    per_channel = len(shape) <= rank and (1,) * (rank - len(shape)) + shape == (1, n_channels, *(1,) * (rank - 2))
    alike = len(shape) <= rank and set(shape) <= {1}
    return step if per_channel or alike else None


def _constant_index(step: onnx_ir.Node) -> int:
    return 0 if constant(step.inputs[0]) is not None else 1


def _is_constant(node: onnx_ir.Node) -> bool:
    tensors = [constant(value) for value in node.inputs[1:]]
    return all(tensor is not None and tensor.dtype.name == "FLOAT" for tensor in tensors)
