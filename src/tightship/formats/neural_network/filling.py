"""Layers that make values: constants, shapes, ranges, fills, broadcasts and random numbers.

Random numbers follow the distribution; the engine that runs the graph has its own generator, so no seed repeats
Core ML's values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS"]


def _load_constant(net: Network, layer: Layer) -> onnx_ir.Value:
    shape = [int(size) for size in layer.params.shape]
    values: np.ndarray = layer.weight("data", shape)
    return net.constant(values.reshape((1,) * (5 - len(shape)) + values.shape), f"{layer.name}/data")


def _load_constant_nd(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.constant(layer.weight("data", layer.params.shape), f"{layer.name}/data")


def _get_shape(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.cast(net.dims(layer.x), "float")


def _range_static(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    return _range(net, layer, *(net.number(n) for n in (params.startValue, params.endValue, params.stepSizeValue)))


def _range_dynamic(net: Network, layer: Layer) -> onnx_ir.Value:
    """Inputs: end, start, step; parameters stand in for absentees."""
    end, *rest = (net.reshape(value, []) for value in layer.take(1, 3))
    start = rest[0] if rest else net.number(layer.params.startValue)
    step = rest[1] if len(rest) > 1 else net.number(layer.params.stepSizeValue)
    return _range(net, layer, start, end, step)


def _range(net: Network, layer: Layer, start: onnx_ir.Value, end: onnx_ir.Value, step: onnx_ir.Value) -> onnx_ir.Value:
    known = net.known(step)
    if known is not None and float(known) == 0:
        raise layer.refuse("expected a step other than 0")
    return net.op("Range", start, end, step)


# Fills: the target shape is that of an input, a parameter, or an input's values


def _like(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.dims(layer.x)


def _static(net: Network, layer: Layer) -> onnx_ir.Value:
    field = "targetShape" if hasattr(layer.params, "targetShape") else "outputShape"
    return net.ints(getattr(layer.params, field))


def _dynamic(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.cast(layer.x, "int64")


def _filled(shape: Any) -> Build:
    def build(net: Network, layer: Layer) -> onnx_ir.Value:
        return _full(net, shape(net, layer), layer.params.value)

    return build


def _full(net: Network, shape: onnx_ir.Value, number: float) -> onnx_ir.Value:
    result = net.op("Expand", net.number(number), shape)
    net.set_rank(result, net.static(shape, 0)[0])
    return result


def _broadcast_to_like(net: Network, layer: Layer) -> onnx_ir.Value:
    x, like = layer.take(2)
    return _expanded(net, x, net.dims(like))


def _broadcast_to_static(net: Network, layer: Layer) -> onnx_ir.Value:
    return _expanded(net, layer.x, net.ints(layer.params.targetShape))


def _broadcast_to_dynamic(net: Network, layer: Layer) -> onnx_ir.Value:
    x, shape = layer.take(2)
    return _expanded(net, x, net.cast(shape, "int64"))


def _expanded(net: Network, x: onnx_ir.Value, shape: onnx_ir.Value) -> onnx_ir.Value:
    result = net.op("Expand", x, shape)
    net.set_rank(result, max(net.rank(x), net.static(shape, 0)[0]))
    return result


# Random numbers


def _normal(shape: Any) -> Build:
    def build(net: Network, layer: Layer) -> onnx_ir.Value:
        params = layer.params
        how = {"mean": float(params.mean), "scale": float(params.stdDev), "seed": _seed(params)}
        return net.op("RandomNormalLike", _full(net, shape(net, layer), 0.0), **how)

    return build


def _uniform(shape: Any) -> Build:
    def build(net: Network, layer: Layer) -> onnx_ir.Value:
        params = layer.params
        how = {"low": float(params.minVal), "high": float(params.maxVal), "seed": _seed(params)}
        return net.op("RandomUniformLike", _full(net, shape(net, layer), 0.0), **how)

    return build


def _bernoulli(shape: Any) -> Build:
    def build(net: Network, layer: Layer) -> onnx_ir.Value:
        params = layer.params
        # ONNX Runtime's own Bernoulli draws 1 with a probability of 1 - p.
        drawn = net.op("RandomUniformLike", _full(net, shape(net, layer), 0.0), seed=_seed(params))
        return net.cast(net.op("Less", drawn, net.number(params.prob)), "float")

    return build


def _categorical(net: Network, layer: Layer) -> onnx_ir.Value:
    """Draw `numSamples` positions along the last axis; ONNX wants the logarithms of weights in two dimensions."""
    params, x = layer.params, layer.x
    logits = x if params.isLogits else net.op("Log", net.op("Add", x, net.number(params.eps or 1e-10)))
    if params.temperature not in (0, 1):
        logits = net.op("Div", logits, net.number(params.temperature))
    flat = net.reshape(logits, [-1], net.dims(x, -1))
    drawn = net.op("Multinomial", flat, sample_size=params.numSamples, seed=_seed(params))
    return net.cast(net.reshape(drawn, net.dims(x, 0, -1), [params.numSamples]), "float")


def _seed(params: Any) -> float | None:
    return None if params.seed < 0 else float(params.seed)


LAYERS: dict[str, Build] = {
    "loadConstant": _load_constant,
    "loadConstantND": _load_constant_nd,
    "getShape": _get_shape,
    "rangeStatic": _range_static,
    "rangeDynamic": _range_dynamic,
    "fillLike": _filled(_like),
    "fillStatic": _filled(_static),
    "fillDynamic": _filled(_dynamic),
    "broadcastToLike": _broadcast_to_like,
    "broadcastToStatic": _broadcast_to_static,
    "broadcastToDynamic": _broadcast_to_dynamic,
    "randomNormalLike": _normal(_like),
    "randomNormalStatic": _normal(_static),
    "randomNormalDynamic": _normal(_dynamic),
    "randomUniformLike": _uniform(_like),
    "randomUniformStatic": _uniform(_static),
    "randomUniformDynamic": _uniform(_dynamic),
    "randomBernoulliLike": _bernoulli(_like),
    "randomBernoulliStatic": _bernoulli(_static),
    "randomBernoulliDynamic": _bernoulli(_dynamic),
    "categoricalDistribution": _categorical,
}
