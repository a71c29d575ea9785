"""Poolings that torch.nn has as they are."""

from __future__ import annotations

from typing import Any

from torch import nn

from tightship.bridges.onnx_to_torch.layers.layer import Call, Layer, layer

_MAX: tuple[Any, ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_AVERAGE: tuple[Any, ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")


@layer("MaxPool")
def max_pool(call: Call) -> Layer | None:
    padding = _padding(call)
    outputs = [value for value in call.node.outputs if value.name]
    if padding is None or len(outputs) > 1:
        return None
    kernel, strides, dilations = _window(call)
    return Layer(_MAX[len(kernel) - 1](kernel, strides, padding, dilations))


@layer("AveragePool")
def average_pool(call: Call) -> Layer | None:
    padding = _padding(call)
    kernel, strides, dilations = _window(call)
    if padding is None or any(dilation != 1 for dilation in dilations):
        return None
    include = bool(call.attributes["count_include_pad"])
    return Layer(_AVERAGE[len(kernel) - 1](kernel, strides, padding, count_include_pad=include))


@layer("GlobalAveragePool")
def global_average_pool(call: Call) -> Layer | None:
    x = call.node.inputs[0]
    if x is None or x.shape is None or len(x.shape) not in (3, 4, 5):
        return None
    return Layer((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(x.shape) - 3](1))


def _window(call: Call) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    kernel = tuple(call.attributes["kernel_shape"])
    ones = (1,) * len(kernel)
    return kernel, tuple(call.attributes["strides"] or ones), tuple(call.attributes["dilations"] or ones)


def _padding(call: Call) -> tuple[int, ...] | None:
    """The same padding at both ends of each axis, at most half the window; None where the node wants another."""
    attributes, x = call.attributes, call.node.inputs[0]
    kernel = attributes["kernel_shape"]
    pads = list(attributes["pads"] or [0] * 2 * len(kernel))
    if attributes["auto_pad"] == "VALID":
        pads = [0] * 2 * len(kernel)
    elif attributes["auto_pad"] not in ("NOTSET", ""):
        return None
    half = all(2 * n <= length for n, length in zip(pads, kernel, strict=False))
    if x is None or x.dtype is None or x.dtype.name not in _FLOATS or len(kernel) > len(_MAX):
        return None
    same = pads[: len(kernel)] == pads[len(kernel) :] and half and not attributes["ceil_mode"]
    return tuple(pads[: len(kernel)]) if same else None
