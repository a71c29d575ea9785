"""Products with constant matrices, and tables of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from tightship.bridges.onnx_to_torch.layers.layer import Call, Layer, layer
from tightship.bridges.onnx_to_torch.operators.indexing import positive

if TYPE_CHECKING:
    import onnx_ir

_LEAST_ROW = 2


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = weight
    if bias is not None:
        linear.bias = bias
    return linear


@layer("MatMul")
def matmul(call: Call) -> Layer | None:
    """x @ w, and the addition of a bias where that is all that follows."""
    weight = call.constant(1)
    if weight is None or weight.ndim != 2 or not call.weights(1) or call.constant(0) is not None:
        return None
    addition, bias = _bias_after(call, weight.shape[1])
    linear = _linear(call.parameter(1, "T"), None if bias is None else call.share(bias, ""))
    return Layer(linear, absorbs=addition)


def _bias_after(call: Call, n_out: int) -> tuple[onnx_ir.Node | None, onnx_ir.Value | None]:
    """Return the node that adds a constant per column to a product, and that constant."""
    product = call.node.outputs[0]
    uses = product.uses()
    if len(uses) != 1 or product.is_graph_output():
        return None, None
    ((reader, index),) = uses
    if (reader.op_type, reader.domain) != ("Add", "") or reader.graph is not call.node.graph:
        return None, None
    bias = reader.inputs[1 - index]
    tensor = None if bias is None else call.find(bias)
    if tensor is None or tuple(tensor.shape) != (n_out,) or not tensor.is_floating_point():
        return None, None
    return reader, bias


@layer("Gemm")
def gemm(call: Call) -> Layer | None:
    """x @ w + b, where alpha and beta are 1 and the bias is one per column."""
    weight, bias, attributes = call.constant(1), call.constant(2), call.attributes
    if weight is None or not call.weights(1, 2) or attributes["transA"] or attributes["alpha"] != 1:
        return None
    n_out = weight.shape[0 if attributes["transB"] else 1]
    if call.has(2) and (bias is None or tuple(bias.shape) != (n_out,) or attributes["beta"] != 1):
        return None
    return Layer(
        _linear(call.parameter(1, "" if attributes["transB"] else "T"), call.parameter(2) if call.has(2) else None)
    )


def embedding_of(call: Call) -> Layer | None:
    """Rows of a float table, by indices that are computed."""
    table = call.constant(0)
    if (
        table is None
        or table.ndim != 2
        or not call.weights(0)
        or call.attributes["axis"] % 2
        or min(table.shape) < _LEAST_ROW
    ):
        return None
    if call.constant(1) is not None or not call.has(1):
        return None
    embedding = nn.Embedding(table.shape[0], table.shape[1], device="meta")
    embedding.weight = call.parameter(0)
    return Layer(embedding, (1,), before=(positive, {"n": table.shape[0]}))


@layer("PRelu")
def prelu(call: Call) -> Layer | None:
    """A slope per channel, or one for all."""
    slope, x = call.constant(1), call.node.inputs[0]
    if slope is None or not call.weights(1) or x is None or x.shape is None or len(x.shape) < 2:
        return None
    channels = slope.numel()
    per_channel = [channels, *[1] * (len(x.shape) - 2)]
    if channels != 1 and list(slope.shape) not in (per_channel, [1, *per_channel]):
        return None
    module = nn.PReLU(channels)
    module.weight = nn.Parameter(slope.detach().reshape(-1).clone())
    return Layer(module)


@layer("Dropout")
def dropout(call: Call) -> Layer | None:
    """Off in eval mode, as ONNX means it; on in train mode, so that the module can be trained further."""
    if len(call.node.outputs) > 1 and call.node.outputs[1].name:
        return None
    ratio, training = call.constant(1), call.constant(2)
    if (call.has(1) and ratio is None) or (call.has(2) and (training is None or bool(training))):
        return None
    if "ratio" in call.attributes:
        return Layer(nn.Dropout(call.attributes["ratio"]))
    return Layer(nn.Dropout(0.5 if ratio is None else float(ratio)))
