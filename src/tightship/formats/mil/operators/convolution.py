"""Convolutions, and how their sides are padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op

_SAME = {"same": "SAME_UPPER", "same_lower": "SAME_LOWER"}


def integers(values: Any, count: int, default: int = 1) -> list[int]:
    """Per spatial axis; a missing list is all defaults."""
    return [default] * count if values is None else [int(value) for value in np.atleast_1d(values)]


def windows(
    x: Operand, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pad_type: str, pad: Any
) -> dict[str, Any]:
    """The padding as ONNX's attributes: in numbers, or by name where lengths are not known before the model runs."""
    count = len(kernel)
    if pad_type == "valid":
        return {"pads": [0] * 2 * count}
    if pad_type == "custom":
        pairs = np.asarray(integers(pad, 2 * count, 0)).reshape(count, 2)
        return {"pads": pairs.T.ravel().tolist()}
    if pad_type not in _SAME:
        raise Unsupported(f"pad_type {pad_type}")
    lengths = x.shape[2:]
    if None in lengths:
        return {"auto_pad": _SAME[pad_type]}
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    total = [
        max(0, (-(-(length or 0) // stride) - 1) * stride + size - (length or 0))
        for length, stride, size in zip(lengths, strides, reach, strict=True)
    ]
    less, more = [entry // 2 for entry in total], [entry - entry // 2 for entry in total]
    return {"pads": [*less, *more] if pad_type == "same" else [*more, *less]}


@op("conv", since=15)
def conv(
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    *,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: int = 1,
    build: Build,
) -> Any:
    count = x.rank - 2
    kernel = weight.dims[2:]
    steps, spread = integers(strides, count), integers(dilations, count)
    return build(
        "Conv",
        x,
        weight,
        bias,
        kernel_shape=list(kernel),
        strides=steps,
        dilations=spread,
        group=groups,
        **windows(x, kernel, steps, spread, pad_type, pad),
    )


@op("conv_quantized", since=15)
def conv_quantized(
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    *,
    quantization_type: str,
    quant_scale: Any,
    quant_bias: Any,
    nbits: int = 8,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: int = 1,
    build: Build,
) -> Any:
    """A convolution whose weight is quantized * scale + bias."""
    if quantization_type != "linear" or nbits != 8 or weight.known is None:
        raise Unsupported(
            f"weights of {nbits} bits, quantized by {quantization_type}; only constants of 8 bits, linear"
        )
    plain = weight.known.astype(np.float32) * _per_output(quant_scale, weight) + _per_output(quant_bias, weight)
    made = Operand(weight.name, weight.type, value=build.value(plain.astype(np.float32)))
    if bias is not None and bias.known is not None:
        bias = Operand(bias.name, bias.type, value=build.value(bias.known.astype(np.float32)))
    return conv(
        x,
        made,
        bias,
        strides=strides,
        pad_type=pad_type,
        pad=pad,
        dilations=dilations,
        groups=groups,
        build=build,
    )


def _per_output(values: Any, weight: Operand) -> np.ndarray:
    array = np.asarray(values, np.float32)
    return array.reshape(-1, *[1] * (weight.rank - 1)) if array.ndim == 1 else array


@op("conv_transpose", since=15)
def conv_transpose(
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    *,
    pad: Any = None,
    output_shape: Any = None,
    pad_type: str = "valid",
    strides: Any = None,
    dilations: Any = None,
    groups: int = 1,
    build: Build,
) -> Any:
    count, kernel = x.rank - 2, weight.dims[2:]
    steps, spread = integers(strides, count), integers(dilations, count)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, spread, strict=True)]
    pads, extra = _cut(x, reach, steps, pad_type, integers(pad, 2 * count, 0), output_shape)
    return build(
        "ConvTranspose",
        x,
        weight,
        bias,
        kernel_shape=list(kernel),
        strides=steps,
        dilations=spread,
        group=groups,
        pads=pads,
        output_padding=extra if any(extra) else None,
    )


def _cut(
    x: Operand, reach: list[int], steps: list[int], pad_type: str, pad: list[int], output_shape: Any
) -> tuple[list[int], list[int]]:
    """How much is cut from the full output at both ends, and what is added behind it."""
    begins, ends, extra = [], [], []
    for axis, (size, step) in enumerate(zip(reach, steps, strict=True)):
        length = x.shape[axis + 2]
        if output_shape is not None:
            if length is None:
                raise Unsupported("an output shape, where that of the input is not known before the model runs")
            total = (length - 1) * step + size - int(output_shape[axis + 2])
        else:
            total = {"same": size - step, "valid": 0}.get(pad_type, pad[2 * axis] + pad[2 * axis + 1])
        begin = {"same": max(0, total) // 2, "valid": 0}.get(pad_type, pad[2 * axis])
        begins.append(begin)
        ends.append(max(0, total - begin))
        extra.append(max(0, begin - total))
    return [*begins, *ends], extra
