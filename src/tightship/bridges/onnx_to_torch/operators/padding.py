"""Padding, and the padding that convolutions and poolings ask for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.table import OPERATORS


@OPERATORS.op("Pad", 11)
def pad(
    x: Tensor,
    pads: list[int],
    constant_value: float | None = None,
    axes: list[int] | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """`pads` are all beginnings, then all ends; negative ones cut."""
    chosen = [axis % x.ndim for axis in axes] if axes is not None else list(range(x.ndim))
    before: list[Any] = [0] * x.ndim
    after: list[Any] = [0] * x.ndim
    for index, axis in enumerate(chosen):
        before[axis], after[axis] = pads[index], pads[index + len(chosen)]
    if mode != "constant":
        for axis in chosen:
            x = mirrored(x, axis, before[axis], after[axis], mode)
        return x
    last_first = [n for axis in reversed(range(x.ndim)) for n in (before[axis], after[axis])]
    value = constant_value or 0
    if x.dtype == torch.bool:
        return functional.pad(x.to(torch.uint8), last_first, value=int(value)).to(torch.bool)
    return functional.pad(x, last_first, value=value)


@OPERATORS.op("Pad", 2)
def pad_2(x: Tensor, *, mode: str = "constant", pads: list[int], value: float = 0.0) -> Tensor:
    return pad(x, pads, value, mode=mode)


def mirrored(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Pad one axis with what is inside: its edge, its reflection or its other end."""
    if isinstance(before, int) and isinstance(after, int) and before == 0 and after == 0:
        return x
    n = x.shape[axis]
    index = torch.arange(-before, n + after)
    if mode == "edge":
        index = index.clamp(0, n - 1)
    elif mode == "wrap":
        index = index % n
    else:
        period = max(2 * (n - 1), 1)
        index = index % period
        index = torch.where(index >= n, period - index, index)
    return x.index_select(axis, index)


def window_pads(
    x: Tensor,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    pads: list[int] | None,
    auto_pad: str,
) -> list[Any]:
    """Padding of the spatial axes, beginnings then ends; SAME gives ceil(n / stride) windows."""
    rank = len(kernel)
    if auto_pad in ("NOTSET", ""):
        return list(pads) if pads else [0] * 2 * rank
    if auto_pad == "VALID":
        return [0] * 2 * rank
    before, after = [], []
    for axis in range(rank):
        n, stride = x.shape[2 + axis], strides[axis]
        total = (-(-n // stride) - 1) * stride + (kernel[axis] - 1) * dilations[axis] + 1 - n
        total = max(total, 0)
        less, more = total // 2, total - total // 2
        before.append(less if auto_pad == "SAME_UPPER" else more)
        after.append(more if auto_pad == "SAME_UPPER" else less)
    return before + after


def pad_spatial(x: Tensor, pads: list[Any], value: float = 0.0) -> Tensor:
    """Pad the last axes by `pads`, beginnings then ends."""
    rank = len(pads) // 2
    if all(isinstance(n, int) and n == 0 for n in pads):
        return x
    order = [n for axis in reversed(range(rank)) for n in (pads[axis], pads[axis + rank])]
    return functional.pad(x, order, value=value)


def pad_same(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int], auto_pad: str) -> Tensor:
    """Pad so that a convolution gives ceil(n / stride) windows."""
    return pad_spatial(x, window_pads(x, kernel, strides, dilations, None, auto_pad))
