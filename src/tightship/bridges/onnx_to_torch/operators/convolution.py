"""Convolutions whose weights are computed; constant ones become layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.operators.padding import pad_spatial, window_pads
from tightship.bridges.onnx_to_torch.table import OPERATORS


def convolve(x: Tensor, w: Tensor, b: Tensor | None, strides: list[int], dilations: list[int], group: int) -> Tensor:
    """Convolve along any 1, 2 or 3 spatial axes."""
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[w.ndim - 3]
    return function(x, w, b, strides, 0, dilations, group)


@OPERATORS.op("Conv", 1)
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    rank = w.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    padding = window_pads(x, list(w.shape[2:]), strides, dilations, pads, auto_pad)
    return convolve(pad_spatial(x, padding), w, b, strides, dilations, group)


@OPERATORS.op("ConvTranspose", 1)
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Transposed convolution without padding, of which the padding is then cut off."""
    rank = w.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extra = output_padding or [0] * rank
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    full = function(x, w, None, strides, 0, 0, group, dilations)
    for axis in range(rank):
        length = full.shape[2 + axis] + extra[axis]
        if output_shape:
            total = length - output_shape[axis - rank]
        elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            total = length - x.shape[2 + axis] * strides[axis]
        else:
            total = (pads[axis] + pads[axis + rank]) if pads and auto_pad == "NOTSET" else 0
        if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        else:
            begin = pads[axis] if pads and auto_pad == "NOTSET" else 0
        full = between(full, 2 + axis, begin, length - total)
    return full if b is None else full + b.reshape(-1, *(1,) * rank)


def between(x: Tensor, axis: int, begin: Any, length: Any) -> Tensor:
    """`length` items along an axis from `begin` on, with zeros beyond the end."""
    missing = begin + length - x.shape[axis]
    if missing > 0:
        x = functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, missing])
    if begin < 0:
        x = functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [-begin, 0])
        begin = 0
    return x.narrow(axis, begin, length)


@OPERATORS.op("CausalConvWithState", 27)
def causal_conv_with_state(
    x: Tensor, w: Tensor, b: Tensor | None = None, past: Tensor | None = None, *, activation: str = "none"
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution of the past and present; gives its output and the last steps as the next past."""
    kept = w.shape[2] - 1
    if past is None:
        past = x.new_zeros(x.shape[0], x.shape[1], kept)
    whole = torch.cat([past, x], 2)
    y = functional.conv1d(whole, w, b, groups=w.shape[0])
    y = y if activation == "none" else functional.silu(y)
    return y, whole.narrow(2, whole.shape[2] - kept, kept)


@OPERATORS.op("Col2Im", 18)
def col2im(
    x: Tensor,
    image_shape: list[int],
    block_shape: list[int],
    *,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Add up blocks `[N, C * prod(block), L]` where they lie in an image of any rank."""
    rank = len(image_shape)
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    padded = [n + pads[k] + pads[k + rank] for k, n in enumerate(image_shape)]
    steps = [(padded[k] - dilations[k] * (block_shape[k] - 1) - 1) // strides[k] + 1 for k in range(rank)]
    channels = x.shape[1] // math.prod(block_shape)
    index = torch.zeros((), dtype=torch.int64)
    for k in range(rank):  # [block..., steps...] -> place in the padded image
        place = torch.arange(block_shape[k]).unsqueeze(1) * dilations[k] + torch.arange(steps[k]) * strides[k]
        shape = [1] * 2 * rank
        shape[k], shape[k + rank] = block_shape[k], steps[k]
        index = index * padded[k] + place.reshape(shape)
    columns = x.reshape(x.shape[0], channels, -1)
    image = x.new_zeros(x.shape[0], channels, math.prod(padded))
    image = image.index_add(2, index.reshape(-1), columns).reshape(x.shape[0], channels, *padded)
    for k in range(rank):
        image = image.narrow(2 + k, pads[k], image_shape[k])
    return image


@OPERATORS.op("DeformConv", 19)
def deform_conv(
    x: Tensor,
    w: Tensor,
    offset: Tensor,
    b: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    offset_group: int = 1,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Deformable convolution of images (arXiv:1811.11168): bilinear samples at displaced places, then a product."""
    strides, dilations, pads = strides or [1, 1], dilations or [1, 1], pads or [0] * 4
    n, channels, height, width = x.shape
    rows, columns = offset.shape[2:]
    taps = w.shape[2] * w.shape[3]
    moves = offset.reshape(n, offset_group, taps, 2, rows, columns)
    tap = torch.arange(taps)
    y = (tap // w.shape[3] * dilations[0] - pads[0]).reshape(-1, 1, 1) + (torch.arange(rows) * strides[0]).reshape(
        1, -1, 1
    )
    z = (tap % w.shape[3] * dilations[1] - pads[1]).reshape(-1, 1, 1) + (torch.arange(columns) * strides[1]).reshape(
        1, 1, -1
    )
    grid = torch.stack(
        [2 * (z + moves[:, :, :, 1]) / max(width - 1, 1) - 1, 2 * (y + moves[:, :, :, 0]) / max(height - 1, 1) - 1], -1
    ).reshape(n * offset_group, taps * rows, columns, 2)
    images = x.reshape(n * offset_group, channels // offset_group, height, width)
    samples = functional.grid_sample(images, grid.to(x.dtype), "bilinear", "zeros", True)
    samples = samples.reshape(n, offset_group, channels // offset_group, taps, rows, columns)
    if mask is not None:
        samples = samples * mask.reshape(n, offset_group, 1, taps, rows, columns)
    inputs = samples.reshape(n, group, channels // group * taps, rows * columns)
    weights = w.reshape(group, w.shape[0] // group, -1)
    out = torch.matmul(weights, inputs).reshape(n, w.shape[0], rows, columns)
    return out if b is None else out + b.reshape(-1, 1, 1)
