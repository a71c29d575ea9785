"""Pooling over windows of the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand
from tightship.formats.mil.operators.convolution import integers, windows
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op


def _beyond(x: Operand, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> list[int]:
    """How far windows reach behind the padding where their number is rounded up.

    A window must begin inside the input or its padding at the front, as in PyTorch.
    """
    count, more = len(kernel), []
    for axis, (size, step) in enumerate(zip(kernel, strides, strict=True)):
        length = x.dims[axis + 2] + pads[axis] + pads[axis + count]
        number = math.ceil((length - size) / step) + 1
        if (number - 1) * step >= length - pads[axis + count]:
            number -= 1
        more.append(max(0, (number - 1) * step + size - length))
    return more


def _placed(
    x: Operand, kernel: Any, strides: Any, pad_type: str, pad: Any, ceil_mode: bool
) -> tuple[dict[str, Any], list[int]]:
    """ONNX's attributes of the windows, and how far they reach behind the padding."""
    size = integers(kernel, x.rank - 2)
    steps = integers(strides, len(size))
    padding = windows(x, size, steps, [1] * len(size), pad_type, pad)
    attributes: dict[str, Any] = {"kernel_shape": size, "strides": steps, **padding}
    if not ceil_mode or "auto_pad" in padding:
        return attributes, [0] * len(size)
    if None in x.shape[2:]:
        return {**attributes, "ceil_mode": 1}, [0] * len(size)
    return attributes, _beyond(x, size, steps, padding["pads"])


def _longer(attributes: dict[str, Any], more: Sequence[int]) -> dict[str, Any]:
    if not any(more):
        return attributes
    pads = attributes["pads"]
    return {**attributes, "pads": [*pads[: len(more)], *(a + b for a, b in zip(pads[len(more) :], more, strict=True))]}


@op("max_pool", since=15)
def max_pool(
    x: Operand,
    *,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: str,
    pad: Any = None,
    ceil_mode: bool = False,
    build: Build,
) -> Any:
    attributes, more = _placed(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return build("MaxPool", x, **_longer(attributes, more))


@op("avg_pool", since=15)
def avg_pool(
    x: Operand,
    *,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: str,
    pad: Any = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
    build: Build,
) -> Any:
    """What windows reach behind the padding never counts; the padding does, unless it is excluded."""
    attributes, more = _placed(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    if not any(more) or exclude_padding_from_average:
        return build(
            "AveragePool", x, **_longer(attributes, more), count_include_pad=int(not exclude_padding_from_average)
        )
    pads = attributes.pop("pads")
    count = len(more)
    padded = build("Pad", x, np.array([0, 0, *pads[:count], 0, 0, *pads[count:]], np.int64))
    return build("AveragePool", padded, **attributes, pads=[*[0] * count, *more], count_include_pad=0)


@op("l2_pool", since=15)
def l2_pool(
    x: Operand,
    *,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: str,
    pad: Any = None,
    ceil_mode: bool = False,
    build: Build,
) -> Any:
    """The root of the sum of squares, by the mean of squares: padding adds nothing."""
    attributes, more = _placed(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean = build("AveragePool", build("Mul", x, x), **_longer(attributes, more), count_include_pad=1)
    return build("Sqrt", build("Mul", mean, build.like(x, math.prod(attributes["kernel_shape"]))))
