"""Pooling over windows and over whole axes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.operators.padding import pad_spatial, window_pads
from tightship.bridges.onnx_to_torch.table import OPERATORS


def ceil_pads(
    x: Tensor, kernel: list[int], strides: list[int], dilations: list[int], pads: list[Any], ceil_mode: int
) -> list[Any]:
    """More padding at the ends, such that the last window fits; a window must begin before the padding at the end."""
    rank = len(kernel)
    ends = list(pads[rank:])
    if ceil_mode:
        for axis in range(rank):
            reach = (kernel[axis] - 1) * dilations[axis] + 1
            whole = x.shape[2 + axis] + pads[axis] + pads[axis + rank]
            steps = -(-(whole - reach) // strides[axis])
            if steps * strides[axis] >= x.shape[2 + axis] + pads[axis]:
                steps = steps - 1
            ends[axis] = ends[axis] + max(steps * strides[axis] + reach - whole, 0)
    return [*pads[:rank], *ends]


@OPERATORS.op("MaxPool", 1)
def max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
    n_outputs: int = 1,
) -> tuple[Tensor, Tensor | None]:
    """The largest of each window, and its index in the whole input where that is asked for."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    padding = window_pads(x, kernel_shape, strides, dilations, pads, auto_pad)
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
    half = all(isinstance(n, int) and 2 * n <= kernel_shape[axis % rank] for axis, n in enumerate(padding))
    if n_outputs == 1 and not ceil_mode and half and padding[:rank] == padding[rank:] and x.is_floating_point():
        return function(x, kernel_shape, strides, padding[:rank], dilations), None
    wide = x if x.is_floating_point() else x.double()
    padding = ceil_pads(x, kernel_shape, strides, dilations, padding, ceil_mode)
    padded = pad_spatial(wide, padding, float("-inf"))
    if n_outputs == 1:
        return function(padded, kernel_shape, strides, 0, dilations).to(x.dtype), None
    y, indices = function(padded, kernel_shape, strides, 0, dilations, return_indices=True)
    return y.to(x.dtype), whole_indices(indices, x, padded, padding, storage_order)


def whole_indices(indices: Tensor, x: Tensor, padded: Tensor, pads: list[Any], storage_order: int) -> Tensor:
    """Indices into one padded channel as indices into the whole tensor; `storage_order` 1 counts columns first."""
    places: list[Tensor] = []
    for axis in reversed(range(len(pads) // 2)):
        n = padded.shape[2 + axis]
        places.insert(0, indices % n - pads[axis])
        indices = indices // n
    axes = list(range(len(places)))
    flat = torch.zeros_like(indices)
    for axis in reversed(axes) if storage_order else axes:
        flat = flat * x.shape[2 + axis] + places[axis]
    channel = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *(1,) * len(axes))
    return flat + channel * math.prod(x.shape[2:])


def window_sums(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    """Sums over the windows of every channel."""
    n, channels = x.shape[:2]
    ones = torch.ones(1, 1, *kernel, dtype=x.dtype)
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[len(kernel) - 1]
    sums = function(x.reshape(n * channels, 1, *x.shape[2:]), ones, None, strides, 0, dilations)
    return sums.reshape(n, channels, *sums.shape[2:])


@OPERATORS.op("AveragePool", 1)
def average_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The mean of each window; padding counts if `count_include_pad`, what `ceil_mode` adds never does."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    padding = window_pads(x, kernel_shape, strides, dilations, pads, auto_pad)
    if not ceil_mode and dilations == [1] * rank and all(isinstance(n, int) and n == 0 for n in padding):
        function = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
        return function(x, kernel_shape, strides)
    whole = ceil_pads(x, kernel_shape, strides, dilations, padding, ceil_mode)
    counted = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    if count_include_pad:
        counted = pad_spatial(counted, padding, 1.0)
        added = [*[0] * rank, *(whole[rank + axis] - padding[rank + axis] for axis in range(rank))]
        counted = pad_spatial(counted, added)
    else:
        counted = pad_spatial(counted, whole)
    sums = window_sums(pad_spatial(x, whole), kernel_shape, strides, dilations)
    return sums / window_sums(counted, kernel_shape, strides, dilations)


@OPERATORS.op("LpPool", 2)
def lp_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    p: int = 2,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The p-norm of each window."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    padding = window_pads(x, kernel_shape, strides, dilations, pads, auto_pad)
    padding = ceil_pads(x, kernel_shape, strides, dilations, padding, ceil_mode)
    return window_sums(pad_spatial(x.abs() ** p, padding), kernel_shape, strides, dilations) ** (1 / p)


@OPERATORS.op("GlobalAveragePool", 1)
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@OPERATORS.op("GlobalMaxPool", 1)
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.ndim)), keepdim=True)


@OPERATORS.op("GlobalLpPool", 2)
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    return (x.abs() ** p).sum(list(range(2, x.ndim)), keepdim=True) ** (1 / p)


@OPERATORS.op("MaxUnpool", 9)
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: list[int] | None = None,
    *,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Put items back where MaxPool found them, and zeros elsewhere."""
    rank = len(kernel_shape)
    strides, pads = strides or [1] * rank, pads or [0] * 2 * rank
    natural = [
        (x.shape[2 + axis] - 1) * strides[axis] + kernel_shape[axis] - pads[axis] - pads[axis + rank]
        for axis in range(rank)
    ]
    flat = x.new_zeros(x.shape[0] * x.shape[1] * math.prod(natural))
    flat = flat.scatter(0, indices.reshape(-1), x.reshape(-1))
    y = flat.reshape(*x.shape[:2], *natural)
    if output_shape is None:
        return y
    missing = [n - have for n, have in zip(output_shape[2:], natural, strict=True)]
    return pad_spatial(y, [*[0] * rank, *missing])
