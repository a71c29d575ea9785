"""Activations: the thirteen kinds of the activation layer, and those that are layers of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["ACTIVATIONS", "LAYERS"]

_Kind = Callable[[Network, Layer, "onnx_ir.Value", Any], "onnx_ir.Value"]


def _plain(kind: str) -> _Kind:
    return lambda net, layer, x, params: net.op(kind, x)


def _with_alpha(kind: str) -> _Kind:
    return lambda net, layer, x, params: net.op(kind, x, alpha=float(params.alpha))


def _linear(net: Network, layer: Layer, x: onnx_ir.Value, params: Any) -> onnx_ir.Value:
    return net.op("Add", net.op("Mul", x, net.number(params.alpha)), net.number(params.beta))


def _scaled_tanh(net: Network, layer: Layer, x: onnx_ir.Value, params: Any) -> onnx_ir.Value:
    inner = net.op("Tanh", net.op("Mul", x, net.number(params.beta)))
    return net.op("Mul", inner, net.number(params.alpha))


def _hard_sigmoid(net: Network, layer: Layer, x: onnx_ir.Value, params: Any) -> onnx_ir.Value:
    return net.op("HardSigmoid", x, alpha=float(params.alpha), beta=float(params.beta))


def _thresholded(net: Network, layer: Layer, x: onnx_ir.Value, params: Any) -> onnx_ir.Value:
    """x where x >= alpha (ONNX's ThresholdedRelu has x > alpha)."""
    kept = net.op("GreaterOrEqual", x, net.number(params.alpha))
    return net.op("Where", kept, x, net.number(0))


def _prelu(net: Network, layer: Layer, x: onnx_ir.Value, params: Any) -> onnx_ir.Value:
    return net.op("PRelu", x, _per_channel(net, layer, x, params, "alpha"))


def _parametric_softplus(net: Network, layer: Layer, x: onnx_ir.Value, params: Any) -> onnx_ir.Value:
    """alpha * log(1 + e^(beta * x))."""
    inner = net.op("Softplus", net.op("Mul", x, _per_channel(net, layer, x, params, "beta")))
    return net.op("Mul", inner, _per_channel(net, layer, x, params, "alpha"))


def _per_channel(net: Network, layer: Layer, x: onnx_ir.Value, params: Any, field: str) -> onnx_ir.Value:
    """Return one number for all, or one per channel along axis -3."""
    found = getattr(params, field)
    count = len(found.floatValue) or len(found.float16Value) // 2 or net.static(x, -3)[0]
    values: np.ndarray = layer.weight(field, [count], message=params)
    return net.constant(values.reshape(-1, 1, 1) if count > 1 else values, f"{layer.name}/{field}")


ACTIVATIONS: dict[str, _Kind] = {
    "linear": _linear,
    "ReLU": _plain("Relu"),
    "leakyReLU": _with_alpha("LeakyRelu"),
    "thresholdedReLU": _thresholded,
    "PReLU": _prelu,
    "tanh": _plain("Tanh"),
    "scaledTanh": _scaled_tanh,
    "sigmoid": _plain("Sigmoid"),
    "sigmoidHard": _hard_sigmoid,
    "ELU": _with_alpha("Elu"),
    "softsign": _plain("Softsign"),
    "softplus": _plain("Softplus"),
    "parametricSoftplus": _parametric_softplus,
}


def _activation(net: Network, layer: Layer) -> onnx_ir.Value:
    kind = layer.params.WhichOneof("NonlinearityType")
    if kind is None:
        raise layer.refuse("expected a kind of activation, found none")
    return ACTIVATIONS[kind](net, layer, layer.x, getattr(layer.params, kind))


def _clamped(net: Network, layer: Layer) -> onnx_ir.Value:
    """min(beta, x) where x >= 0, min(beta, alpha * x) elsewhere."""
    leaky = net.op("LeakyRelu", layer.x, alpha=float(layer.params.alpha))
    return net.op("Min", leaky, net.number(layer.params.beta))


def _gelu(net: Network, layer: Layer) -> onnx_ir.Value:
    mode = layer.choice("mode")
    if mode == "SIGMOID_APPROXIMATION":
        return net.op("Mul", layer.x, net.op("Sigmoid", net.op("Mul", layer.x, net.number(1.702))))
    return net.op("Gelu", layer.x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


LAYERS: dict[str, Build] = {"activation": _activation, "clampedReLU": _clamped, "gelu": _gelu}
