"""Convolutions with constant kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tightship.bridges.onnx_to_torch.layers.layer import Call, Layer, layer
from tightship.bridges.onnx_to_torch.operators.padding import pad_same, pad_spatial

_CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@layer("Conv")
def conv(call: Call) -> Layer | None:
    """Padding that differs between the two ends, or depends on the length, is done before."""
    weight, attributes = call.constant(1), call.attributes
    if weight is None or not call.weights(1, 2) or not 3 <= weight.ndim <= 5:
        return None
    rank = weight.ndim - 2
    kernel = list(weight.shape[2:])
    strides, dilations = attributes["strides"] or [1] * rank, attributes["dilations"] or [1] * rank
    pads = list(attributes["pads"] or [0] * 2 * rank)
    before: tuple[Callable[..., Any], dict[str, Any]] | None = None
    padding = pads[:rank]
    if attributes["auto_pad"] in ("SAME_UPPER", "SAME_LOWER"):
        settings = {
            "kernel": kernel,
            "strides": list(strides),
            "dilations": list(dilations),
            "auto_pad": attributes["auto_pad"],
        }
        before, padding = (pad_same, settings), [0] * rank
    elif attributes["auto_pad"] == "VALID":
        padding = [0] * rank
    elif pads[:rank] != pads[rank:]:
        before, padding = (pad_spatial, {"pads": pads}), [0] * rank
    group = attributes["group"]
    module = _CONVOLUTIONS[rank - 1](
        weight.shape[1] * group, weight.shape[0], tuple(kernel), tuple(strides), tuple(padding), tuple(dilations),
        group, call.has(2), device="meta",
    )  # fmt: skip
    return Layer(_weighted(module, call), before=before)


@layer("ConvTranspose")
def conv_transpose(call: Call) -> Layer | None:
    weight, attributes = call.constant(1), call.attributes
    if weight is None or not call.weights(1, 2) or not 3 <= weight.ndim <= 5:
        return None
    rank = weight.ndim - 2
    strides, dilations = attributes["strides"] or [1] * rank, attributes["dilations"] or [1] * rank
    pads = list(attributes["pads"] or [0] * 2 * rank)
    extra = attributes["output_padding"] or [0] * rank
    fits = all(more < max(stride, gap) for more, stride, gap in zip(extra, strides, dilations, strict=True))
    if (
        attributes["output_shape"]
        or attributes["auto_pad"] not in ("NOTSET", "")
        or pads[:rank] != pads[rank:]
        or not fits
    ):
        return None
    group = attributes["group"]
    module = _TRANSPOSED[rank - 1](
        weight.shape[0], weight.shape[1] * group, tuple(weight.shape[2:]), tuple(strides), tuple(pads[:rank]),
        tuple(extra), group, call.has(2), tuple(dilations), device="meta",
    )  # fmt: skip
    return Layer(_weighted(module, call))


def _weighted(module: nn.Module, call: Call) -> nn.Module:
    module.weight = call.parameter(1)
    if call.has(2):
        module.bias = call.parameter(2)
    return module
