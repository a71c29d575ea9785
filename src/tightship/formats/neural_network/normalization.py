"""Normalizations: over batches, instances, channels, neighbours, and layers; softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tightship.formats.neural_network import weights
from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS"]

_CHW = (-3, -2, -1)


def _batchnorm(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    channels, epsilon = params.channels, params.epsilon or 1e-5
    gamma = layer.weight("gamma", [channels])
    beta = layer.weight("beta", [channels])
    if params.computeMeanVar:
        return _by_own_moments(net, layer, gamma, beta, epsilon)
    mean = layer.weight("mean", [channels])
    variance = layer.weight("variance", [channels])
    constants = [net.constant(each) for each in (gamma, beta, mean, variance)]
    return net.folded_to(
        layer.x, 4, lambda batch: net.op("BatchNormalization", batch, *constants, epsilon=float(epsilon))
    )


def _by_own_moments(net: Network, layer: Layer, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> onnx_ir.Value:
    if layer.params.instanceNormalization:
        pair = net.constant(gamma), net.constant(beta)
        return net.folded_to(
            layer.x, 4, lambda batch: net.op("InstanceNormalization", batch, *pair, epsilon=float(epsilon))
        )
    axes = [axis for axis in range(-net.rank(layer.x), 0) if axis != -3]
    scale, offset = (net.constant(each.reshape(-1, 1, 1)) for each in (gamma, beta))
    normal = _standardized(net, layer.x, axes, epsilon)
    return net.op("Add", net.op("Mul", normal, scale), offset)


def _standardized(net: Network, x: onnx_ir.Value, axes: list[int], epsilon: float) -> onnx_ir.Value:
    """(x - mean) / sqrt(variance + epsilon) over these axes."""
    centred = _centred(net, x, axes)
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), net.ints(axes))
    return net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.number(epsilon))))


def _centred(net: Network, x: onnx_ir.Value, axes: list[int]) -> onnx_ir.Value:
    return net.op("Sub", x, net.op("ReduceMean", x, net.ints(axes)))


def _mvn(net: Network, layer: Layer) -> onnx_ir.Value:
    axes = list(_CHW if layer.params.acrossChannels else _CHW[1:])
    if not layer.params.normalizeVariance:
        return _centred(net, layer.x, axes)
    return _standardized(net, layer.x, axes, layer.params.epsilon or 1e-6)


def _l2normalize(net: Network, layer: Layer) -> onnx_ir.Value:
    total = net.op("ReduceSumSquare", layer.x, net.ints(_CHW))
    epsilon = net.number(layer.params.epsilon or 1e-6)
    return net.op("Div", layer.x, net.op("Sqrt", net.op("Add", total, epsilon)))


def _softmax(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.op("Softmax", layer.x, axis=-3)


def _softmax_nd(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.op("Softmax", layer.x, axis=layer.params.axis)


def _lrn(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    values = {"alpha": float(params.alpha), "beta": float(params.beta), "bias": float(params.k or 1.0)}
    return net.folded_to(layer.x, 4, lambda batch: net.op("LRN", batch, **values, size=int(params.localSize)))


def _layer_normalization(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    shape = [int(size) for size in params.normalizedShape]
    if not shape:
        raise layer.refuse("expected a normalized shape, found none")
    gamma = np.ones(shape, np.float32) if weights.is_empty(params.gamma) else layer.weight("gamma", shape)
    beta = None if weights.is_empty(params.beta) else net.constant(layer.weight("beta", shape))
    return net.op(
        "LayerNormalization", layer.x, net.constant(gamma), beta, axis=-len(shape), epsilon=float(params.eps or 1e-5)
    )


LAYERS: dict[str, Build] = {
    "batchnorm": _batchnorm,
    "mvn": _mvn,
    "l2normalize": _l2normalize,
    "softmax": _softmax,
    "softmaxND": _softmax_nd,
    "lrn": _lrn,
    "layerNormalization": _layer_normalization,
}
