"""Quantized operators, computed exactly: integers in int32 products of float64 sums."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.operators.convolution import conv
from tightship.bridges.onnx_to_torch.operators.types import FLOAT8_LARGEST, to_float4, to_float8
from tightship.bridges.onnx_to_torch.table import OPERATORS

RANGES = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
    "uint2": (0, 3),
    "int2": (-2, 1),
    "int32": (-(2**31), 2**31 - 1),
}
"""The least and largest value of each integer type that is quantized to."""


def along(parameter: Tensor, x: Tensor, axis: int, block_size: int = 0) -> Tensor:
    """A scale or zero point so that it meets its items: one for all, one per index of an axis, or one per block."""
    if parameter.numel() == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    axis = axis % x.ndim
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if k == axis else 1 for k in range(x.ndim)]) if parameter.ndim == 1 else parameter


def rounded(x: Tensor, zero_point: Tensor | None, output_type: str) -> Tensor:
    """Round to even, shift and saturate; the result is in float."""
    low, high = RANGES[output_type]
    x = torch.round(x)
    return (x if zero_point is None else x + zero_point).clamp(low, high)


@OPERATORS.op("QuantizeLinear", 10)
def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: torch.dtype | int | None = 0,
    precision: int = 0,
    saturate: int = 1,
    output_type: str = "uint8",
) -> Tensor:
    """Quantize per tensor, per index of `axis`, or per block of it."""
    scaled = x.float() / along(scale, x, axis, block_size).float()
    if not precision and x.dtype == scale.dtype:
        scaled = (x / along(scale, x, axis, block_size)).float()
    zero = None if zero_point is None else along(zero_point, x, axis, block_size)
    if output_type in FLOAT8_LARGEST:
        dtypes = {
            "float8e4m3fn": torch.float8_e4m3fn,
            "float8e4m3fnuz": torch.float8_e4m3fnuz,
            "float8e5m2": torch.float8_e5m2,
            "float8e5m2fnuz": torch.float8_e5m2fnuz,
        }
        return to_float8(scaled, dtypes[output_type], bool(saturate), output_type)
    if output_type == "float4e2m1":
        return to_float4(scaled if zero is None else scaled + zero)
    carriers = {
        "uint16": torch.int32,
        "int4": torch.int8,
        "uint4": torch.uint8,
        "int2": torch.int8,
        "uint2": torch.uint8,
    }
    dtype = carriers[output_type] if output_type in carriers else getattr(torch, output_type)
    return rounded(scaled, zero, output_type).to(dtype)


@OPERATORS.op("DequantizeLinear", 10)
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: torch.dtype | int | None = 0,
) -> Tensor:
    """(x - zero_point) * scale, in the type of the scale unless another is asked for."""
    scale = along(scale, x, axis, block_size)
    dtype = output_dtype if isinstance(output_dtype, torch.dtype) else scale.dtype
    wide = x.float() if x.is_floating_point() else x.to(torch.int32)
    if zero_point is not None:
        zero = along(zero_point, x, axis, block_size)
        wide = wide - (zero.float() if zero.is_floating_point() else zero.to(torch.int32))
    return (wide.float() * scale.float()).to(dtype)


@OPERATORS.op("DynamicQuantizeLinear", 11)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize to uint8 by the range of this very tensor, 0 included; gives values, scale and zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((0 - low) / scale).clamp(0, 255)
    return (torch.round(x / scale) + zero).clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


def shifted(x: Tensor, zero_point: Tensor | None, axis: int = -1) -> Tensor:
    """Integers less their zero point, in float64, where sums of products of bytes are exact."""
    wide = x.double()
    return wide if zero_point is None else wide - along(zero_point.double(), x, axis)


@OPERATORS.op("MatMulInteger", 10)
def matmul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    return torch.matmul(shifted(a, a_zero_point, -2), shifted(b, b_zero_point)).to(torch.int32)


@OPERATORS.op("QLinearMatMul", 10)
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    *,
    output_type: str = "uint8",
) -> Tensor:
    product = torch.matmul(shifted(a, a_zero_point, -2), shifted(b, b_zero_point))
    scale = along(a_scale, a, -2).double() * along(b_scale, b, -1).double() / along(y_scale, product, -2).double()
    zero = along(y_zero_point, product, -2)
    return rounded(product * scale, zero, output_type).to(y_zero_point.dtype)


@OPERATORS.op("ConvInteger", 10)
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    sums = conv(
        shifted(x, x_zero_point, 1), shifted(w, w_zero_point, 0), auto_pad=auto_pad, dilations=dilations, group=group,
        pads=pads, strides=strides,
    )  # fmt: skip
    return sums.to(torch.int32)


@OPERATORS.op("QLinearConv", 10)
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
    output_type: str = "uint8",
) -> Tensor:
    sums = conv(
        shifted(x, x_zero_point), shifted(w, w_zero_point, 0), None if b is None else b.double(), auto_pad=auto_pad,
        dilations=dilations, group=group, pads=pads, strides=strides,
    )  # fmt: skip
    scale = along(x_scale.double() * w_scale.double() / y_scale.double(), sums, 1)
    return rounded(sums * scale, y_zero_point, output_type).to(y_zero_point.dtype)
