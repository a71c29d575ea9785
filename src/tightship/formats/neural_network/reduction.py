"""Reductions over axes, positions of extremes, orders and running sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS"]

_AXES = {"CHW": (-3, -2, -1), "HW": (-2, -1), "C": (-3,), "H": (-2,), "W": (-1,)}

_OPERATORS = {
    "SUM": "ReduceSum",
    "AVG": "ReduceMean",
    "PROD": "ReduceProd",
    "SUMSQUARE": "ReduceSumSquare",
    "L1": "ReduceL1",
    "L2": "ReduceL2",
    "MAX": "ReduceMax",
    "MIN": "ReduceMin",
}


def _reduce(net: Network, layer: Layer) -> onnx_ir.Value:
    mode, axes = layer.choice("mode"), _AXES[layer.choice("axis")]
    if mode == "ARGMAX":
        if len(axes) > 1:
            raise layer.refuse(f"expected one axis for ARGMAX, found {axes}")
        return net.cast(net.op("ArgMax", layer.x, axis=axes[0]), "float")
    if mode == "LOGSUM":
        safe = net.op("Add", layer.x, net.number(layer.params.epsilon or 1e-6))
        return net.op("ReduceSum", net.op("Log", safe), net.ints(axes))
    return net.op(_OPERATORS[mode], layer.x, net.ints(axes))


def _reduced(kind: str) -> Build:
    def build(net: Network, layer: Layer) -> onnx_ir.Value:
        params, rank = layer.params, net.rank(layer.x)
        axes = list(range(rank)) if params.reduceAll or not params.axes else [int(axis) for axis in params.axes]
        result = net.op(kind, layer.x, net.ints(axes), keepdims=int(params.keepDims))
        return _at_least_rank_1(net, result)

    return build


def _extreme(kind: str) -> Build:
    def build(net: Network, layer: Layer) -> onnx_ir.Value:
        found = net.op(kind, layer.x, axis=layer.params.axis, keepdims=int(not layer.params.removeDim))
        return net.cast(_at_least_rank_1(net, found), "float")

    return build


def _at_least_rank_1(net: Network, value: onnx_ir.Value) -> onnx_ir.Value:
    """Core ML has no tensors without axes: what would be one has the shape [1]."""
    return value if net.rank(value) else net.reshape(value, [1])


def _top_k(net: Network, layer: Layer) -> tuple[onnx_ir.Value, ...]:
    x, *rest = layer.take(1, 2)
    count = net.reshape(net.cast(rest[0], "int64"), [1]) if rest else net.ints([layer.params.K])
    largest = int(not layer.params.useBottomK)
    values, indices = net.ops("TopK", x, count, results=2, axis=layer.params.axis, largest=largest)
    return values, net.cast(indices, "float")


def _arg_sort(net: Network, layer: Layer) -> onnx_ir.Value:
    axis = layer.params.axis
    count = net.dims(layer.x, axis, axis + 1) if axis != -1 else net.dims(layer.x, -1)
    largest = int(layer.params.descending)
    return net.cast(net.ops("TopK", layer.x, count, results=2, axis=axis, largest=largest)[1], "float")


def _cum_sum(net: Network, layer: Layer) -> onnx_ir.Value:
    x, *rest = layer.take(1, 2)
    axis = net.reshape(net.cast(rest[0], "int64"), []) if rest else net.reshape(net.ints([layer.params.axis]), [])
    return net.op("CumSum", x, axis, exclusive=int(layer.params.excludeFinalSum), reverse=int(layer.params.reverse))


LAYERS: dict[str, Build] = {
    "reduce": _reduce,
    "reduceL1": _reduced("ReduceL1"),
    "reduceL2": _reduced("ReduceL2"),
    "reduceMax": _reduced("ReduceMax"),
    "reduceMin": _reduced("ReduceMin"),
    "reduceSum": _reduced("ReduceSum"),
    "reduceProd": _reduced("ReduceProd"),
    "reduceMean": _reduced("ReduceMean"),
    "reduceLogSum": _reduced("ReduceLogSum"),
    "reduceSumSquare": _reduced("ReduceSumSquare"),
    "reduceLogSumExp": _reduced("ReduceLogSumExp"),
    "argMax": _extreme("ArgMax"),
    "argMin": _extreme("ArgMin"),
    "topK": _top_k,
    "argSort": _arg_sort,
    "cumSum": _cum_sum,
}
