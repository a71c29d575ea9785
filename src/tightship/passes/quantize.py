"""The arithmetic of affine 8-bit quantization: scales, zero points and the integers themselves.

`real = scale * (integer - zero_point)`, as ONNX DequantizeLinear defines it. Symmetric means zero_point 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tightship.errors import InvalidModel, UsageError

__all__ = [
    "SMALLEST_SCALE",
    "Affine",
    "IntegerType",
    "QuantizedTensor",
    "affine_of_range",
    "bias_floor",
    "fast_weight_bits",
    "quantize",
    "quantize_bias",
    "quantize_weight",
    "symmetric_of_range",
]

IntegerType = Literal["uint8", "int8"]

SMALLEST_SCALE = 2.0**-63
"""No scale is smaller: the product of two, the scale of a bias, is then still a normal float32."""

_BIAS_LIMIT = 2.0**30
"""Largest integer of a bias: half of int32, so that the accumulator that starts from it has room."""

_SLAB_ELEMENTS = 2**17

_LARGEST = {4: 7, 7: 64, 8: 127}

_CLIPPED_BITS = 4
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""Fractions of a channel's range to try at few bits: cutting the largest weights rounds all others more finely."""

_WITHOUT_SATURATION = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp"}


@dataclass(frozen=True)
class Affine:
    """Scale (float32) and zero point (the integer type), both of shape `[]` or, per channel, `[channels]`."""

    scale: np.ndarray
    zero_point: np.ndarray


@dataclass(frozen=True)
class QuantizedTensor:
    """Integers of the tensor's own shape, and how they are to be read along `axis` (None: one scale for all)."""

    values: np.ndarray
    affine: Affine
    axis: int | None

    def dequantize(self) -> np.ndarray:
        """Return the float32 values that the integers stand for."""
        scale = _along(self.affine.scale, self.axis, self.values.ndim)
        zero_point = _along(self.affine.zero_point, self.axis, self.values.ndim)
        reals: np.ndarray = (self.values.astype(np.float32) - zero_point.astype(np.float32)) * scale
        return reals


def fast_weight_bits(processor_features: Collection[str]) -> Literal[7, 8]:
    """Return the weight bits that the int8 kernels of this processor add up without saturating: 7 or 8.

    AVX2 and AVX-512 without VNNI add two u8*s8 products in 16 bits (vpmaddubsw): 2*255*127 does not fit, 2*255*64 does.
    Without any feature known (not Linux) 8 is returned.
    """
    x86_without_vnni = "avx2" in processor_features and not _WITHOUT_SATURATION & set(processor_features)
    return 7 if x86_without_vnni else 8


def affine_of_range(low: float, high: float, dtype: IntegerType) -> Affine:
    """Spread the 256 integers over `[low, high]`, widened to hold zero, which is then represented exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    limits = np.iinfo(dtype)
    scale = np.float32(max((high - low) / (limits.max - limits.min), SMALLEST_SCALE))
    zero_point = np.clip(round(limits.min - low / float(scale)), limits.min, limits.max)
    return Affine(np.array(scale), np.array(zero_point, dtype=dtype))


def symmetric_of_range(low: float, high: float, bits: int = 8) -> Affine:
    """Spread the int8 numbers -127..127 (7 bits: -64..64) over `[-m, m]`, m the larger of |low| and |high|."""
    scale = max(abs(low), abs(high)) / _largest(bits)
    return Affine(np.array(max(scale, SMALLEST_SCALE), dtype=np.float32), np.array(0, dtype=np.int8))


def quantize(values: np.ndarray, affine: Affine, axis: int | None = None) -> np.ndarray:
    """Return the integers nearest to `values` (halves to even, as ONNX has it), saturated to the zero point's type."""
    integers = np.empty(values.shape, dtype=affine.zero_point.dtype)
    scale = np.broadcast_to(_along(affine.scale, axis, values.ndim), values.shape)
    zero_point = np.broadcast_to(_along(affine.zero_point, axis, values.ndim), values.shape)
    # In slabs that stay in the cache: the temporaries of a large weight would cost more time than the arithmetic.
    for slab in _slabs(values):
        integers[slab] = _nearest(values[slab] / scale[slab], zero_point[slab])
    return integers


def quantize_weight(
    weight: np.ndarray, axis: int | None, bits: int = 8, floor: np.ndarray | float = 0.0, name: str = ""
) -> QuantizedTensor:
    """Quantize a float weight symmetrically to int8, each slice along `axis` with its own scale (None: one for all).

    The integers are -127..127 (7 bits: -64..64; 4 bits: -7..7, where cutting off the largest weights is tried).
    `floor`, scalar or `[channels]`, is the least scale: `bias_floor`.
    Raises `InvalidModel` that names the weight where it holds NaN or infinity.
    """
    peak = _peak(weight, axis)
    if not np.isfinite(peak).all():
        raise InvalidModel(
            f"weight {name!r} holds NaN or infinite values; expected finite numbers, retrain or repair it"
        )
    weight = weight.astype(np.float32, copy=False)
    if bits <= _CLIPPED_BITS:
        peak = peak * _best_shrink(weight, axis, peak, bits)
    scale = np.asarray(np.maximum(peak / _largest(bits), np.maximum(floor, SMALLEST_SCALE)), dtype=np.float32)
    affine = Affine(scale, np.zeros(scale.shape, dtype=np.int8))
    values = quantize(weight, affine, axis)
    return QuantizedTensor(np.clip(values, -_largest(bits), _largest(bits), out=values), affine, axis)


def bias_floor(bias: np.ndarray, input_scale: np.ndarray) -> np.ndarray:
    """Return the least weight scale, `[channels]`, at which the bias still fits int32 at scale input * weight.

    Without it a channel of (nearly) zero weights would lose its bias.
    """
    floor: np.ndarray = np.abs(bias).astype(np.float64) / (_BIAS_LIMIT * float(input_scale))
    return floor


def quantize_bias(bias: np.ndarray, input_scale: np.ndarray, weight_scale: np.ndarray) -> QuantizedTensor:
    """Quantize a bias `[channels]` to int32 at the scale of the accumulator it is added to: input * weight."""
    scale = np.asarray(input_scale * weight_scale, dtype=np.float32)
    limits = np.iinfo(np.int32)
    values = np.clip(np.rint(bias / scale.astype(np.float64)), limits.min, limits.max).astype(np.int32)
    return QuantizedTensor(values, Affine(scale, np.zeros(scale.shape, dtype=np.int32)), 0 if scale.ndim else None)


def _slabs(values: np.ndarray) -> Iterator[tuple[slice, ...]]:
    if values.ndim == 0:
        yield ()
        return
    n_rows = max(1, _SLAB_ELEMENTS * len(values) // max(1, values.size))
    yield from ((slice(start, start + n_rows),) for start in range(0, len(values), n_rows))


def _nearest(scaled: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    limits = np.iinfo(zero_point.dtype)
    rounded: np.ndarray = np.rint(scaled)
    rounded += zero_point
    return np.clip(rounded, limits.min, limits.max, out=rounded)


def _largest(bits: int) -> int:
    if bits not in _LARGEST:
        raise UsageError(f"weights are quantized to 4, 7 or 8 bits here, found {bits}")
    return _LARGEST[bits]


def _best_shrink(weight: np.ndarray, axis: int | None, peak: np.ndarray, bits: int) -> np.ndarray:
    """Return the fraction of each slice's range, of a few, whose rounding has the least squared error."""
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    best, least = np.ones_like(peak), np.full_like(peak, np.inf)
    largest = _largest(bits)
    for shrink in _SHRINKS:
        scale = _along(np.maximum(peak * shrink / largest, SMALLEST_SCALE).astype(np.float32), axis, weight.ndim)
        rounded = np.clip(np.rint(weight / scale), -largest, largest) * scale
        error = np.square(rounded - weight).sum(axis=others)
        best, least = np.where(error < least, shrink, best), np.minimum(error, least)
    return best


def _peak(weight: np.ndarray, axis: int | None) -> np.ndarray:
    # max(|w|) without a temporary as large as the weight; np.max and np.min carry NaN along.
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    if weight.size == 0:
        return np.zeros(() if axis is None else weight.shape[axis])
    peak: np.ndarray = np.maximum(weight.max(axis=others), -weight.min(axis=others))
    return np.asarray(peak, dtype=np.float64)


def _along(parameter: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    if axis is None or parameter.ndim == 0:
        return parameter
    shape = [1] * rank
    shape[axis] = math.prod(parameter.shape)
    return parameter.reshape(shape)
