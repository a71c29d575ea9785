"""Casts, bits, and the integer types that are carried in wider ones."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS

WRAPPED = {"uint16": 16, "uint32": 32, "int4": -4, "uint4": 4, "int2": -2, "uint2": 2}
"""Types carried in wider ones: their bits, negative for signed ones."""

FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of float4e2m1."""

FLOAT8_LARGEST = {"float8e4m3fn": 448.0, "float8e4m3fnuz": 240.0, "float8e5m2": 57344.0, "float8e5m2fnuz": 57344.0}
"""The largest finite value of each float of 8 bits."""


def to_bits(x: Tensor, *, output_type: str) -> Tensor:
    """Keep the low bits of integers, as the narrow type `output_type` would."""
    bits = WRAPPED[output_type]
    wide = x.to(torch.int64) & (2 ** abs(bits) - 1)
    if bits < 0:
        wide = torch.where(wide >= 2 ** (-bits - 1), wide - 2**-bits, wide)
    return wide.to(x.dtype)


def to_float4(x: Tensor) -> Tensor:
    """Round to the nearest value of float4e2m1, ties to the even mantissa, and saturate; NaN gives 0."""
    magnitudes = torch.tensor(FLOAT4, device=x.device)
    middles = (magnitudes[1:] + magnitudes[:-1]) / 2
    size = x.float().abs()
    up = torch.bucketize(size, middles)  # a tie goes down
    even_up = torch.bucketize(size, middles, right=True)  # a tie goes up
    index = torch.where(up % 2 == 0, up, even_up)
    return torch.copysign(magnitudes[torch.where(size.isnan(), 0, index)], x.float())


def to_float8(x: Tensor, dtype: torch.dtype, saturate: bool, name: str) -> Tensor:
    """Cast to a float of 8 bits; what is beyond its range becomes the largest, infinite, or NaN."""
    wide = x.float()
    largest = FLOAT8_LARGEST[name]
    if saturate:
        return torch.where(wide.isnan(), wide, wide.clamp(-largest, largest)).to(dtype)
    # Half a step above the largest number rounds beyond the range; torch saturates or not, depending on the type.
    step = (
        largest * (2**-3 if "e5m2" in name else 2**-4) / (1.75 if "e5m2" in name else 1.875 if "fnuz" in name else 1.75)
    )
    beyond = wide.abs() >= largest + step if name == "float8e5m2" else wide.abs() > largest + step
    over = torch.copysign(torch.full_like(wide, float("inf" if name == "float8e5m2" else "nan")), wide)
    return torch.where(beyond, over, wide.clamp(-largest, largest)).to(dtype)


def to_float8e8m0(x: Tensor, saturate: bool, round_mode: str) -> Tensor:
    """Cast to float8e8m0, powers of two only; the sign is dropped, 0 becomes the least power."""
    wide = x.to(torch.float32)
    bits = wide.view(torch.int32)
    exponent = (bits >> 23) & 0xFF
    mantissa = bits & 0x7FFFFF
    if round_mode == "up":
        exponent = exponent + ((mantissa > 0) & ((exponent != 0) | (mantissa > 0x400000))).int()
    elif round_mode == "nearest":
        rounds = torch.where(exponent == 0, mantissa > 0x400000, mantissa >= 0x400000)
        exponent = exponent + rounds.int()
    limit = 254 if saturate else 255
    exponent = torch.where(wide.isfinite(), exponent.clamp(max=limit), torch.where(wide.isinf() & saturate, 254, 255))
    exponent = torch.where(wide.isnan(), 255, exponent)
    return exponent.to(torch.uint8).view(torch.float8_e8m0fnu)


@OPERATORS.op("Cast", 6)
def cast(x: Tensor, *, to: torch.dtype, saturate: int = 1, round_mode: str = "up", output_type: str = "") -> Tensor:
    if output_type == "float4e2m1":
        return to_float4(x)
    if output_type == "float8e8m0":
        return to_float8e8m0(x, bool(saturate), round_mode)
    if output_type in FLOAT8_LARGEST:
        return to_float8(x, to, bool(saturate), output_type)
    if x.dtype.is_floating_point and x.dtype.itemsize == 1:
        x = x.float()
    if x.is_floating_point() and to in (torch.int8, torch.uint8, torch.int16):
        x = x.to(torch.int32)
    x = x.to(to)
    return to_bits(x, output_type=output_type) if output_type in WRAPPED else x


@OPERATORS.op("CastLike", 15)
def cast_like(x: Tensor, target: Tensor, *, saturate: int = 1, round_mode: str = "up", output_type: str = "") -> Tensor:
    return cast(x, to=target.dtype, saturate=saturate, round_mode=round_mode, output_type=output_type)


@OPERATORS.op("BitCast", 26)
def bit_cast(x: Tensor, *, to: torch.dtype, output_type: str = "") -> Tensor:
    widths = {"uint16": torch.int16, "uint32": torch.int32}
    if to.itemsize > x.dtype.itemsize:  # to an unsigned type: its bits, then its carrier
        return to_bits(x.view(widths[output_type]).to(to), output_type=output_type)
    if to.itemsize < x.dtype.itemsize:  # from an unsigned type in its carrier
        return x.to({2: torch.int16, 4: torch.int32}[to.itemsize]).view(to)
    return x.view(to)


@OPERATORS.op("BitShift", 11)
def bit_shift(x: Tensor, y: Tensor, *, direction: str) -> Tensor:
    return torch.bitwise_left_shift(x, y) if direction == "LEFT" else torch.bitwise_right_shift(x, y)


OPERATORS.rows(
    ("BitwiseAnd", 18, torch.bitwise_and),
    ("BitwiseNot", 18, torch.bitwise_not),
    ("BitwiseOr", 18, torch.bitwise_or),
    ("BitwiseXor", 18, torch.bitwise_xor),
)
