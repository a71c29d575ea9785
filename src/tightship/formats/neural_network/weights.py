"""Weights of a spec as float32 arrays: float32, float16, and 1 to 8 bits by a line or a look-up table.

Codes are packed with the most significant bit first; a line is code * scale + bias with one pair for all or one per
output channel (NeuralNetwork.proto, WeightParams and QuantizationParams).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tightship.errors import InvalidModel

__all__ = ["array", "is_empty"]


def is_empty(found: Any) -> bool:
    """Tell whether no values are given in any form."""
    return not (len(found.floatValue) or found.float16Value or found.rawValue or found.int8RawValue)


def array(found: Any, shape: Sequence[int], channel_axis: int, what: str) -> np.ndarray:
    """Return the values in this shape; `what` names them. Raises `InvalidModel` where they are missing or too few."""
    values = _dequantized(found, shape, channel_axis, what) if _is_quantized(found) else _plain(found, what)
    _check_count(values.size, shape, what)
    return np.ascontiguousarray(values, np.float32).reshape(tuple(shape))


def _is_quantized(found: Any) -> bool:
    return bool(found.rawValue or found.int8RawValue)


def _plain(found: Any, what: str) -> np.ndarray:
    if found.float16Value:
        if len(found.float16Value) % 2:
            raise InvalidModel(f"{what}: expected 2 bytes for each float16, found {len(found.float16Value)} bytes")
        return np.frombuffer(found.float16Value, "<f2").astype(np.float32)
    if not len(found.floatValue):
        raise InvalidModel(f"{what}: expected weights, found none; the file is damaged")
    return np.array(found.floatValue, np.float32)


def _dequantized(found: Any, shape: Sequence[int], channel_axis: int, what: str) -> np.ndarray:
    kind = found.quantization.WhichOneof("QuantizationType")
    if kind is None:
        raise InvalidModel(f"{what}: expected a quantization for the raw weights, found none")
    codes = _codes(found, math.prod(shape), what)
    _check_count(codes.size, shape, what)
    codes = codes.reshape(tuple(shape))
    if kind == "linearQuantization":
        return _linear(codes, found.quantization.linearQuantization, channel_axis, what)
    table = np.array(found.quantization.lookupTableQuantization.floatValue, np.float32)
    if codes.size and table.size <= codes.max():
        raise InvalidModel(f"{what}: expected a look-up table of {int(codes.max()) + 1} or more, found {table.size}")
    return np.asarray(table[codes])


def _linear(codes: np.ndarray, quantization: Any, channel_axis: int, what: str) -> np.ndarray:
    channels = codes.shape[channel_axis] if codes.ndim > 1 else 1
    scale = _per_channel(quantization.scale, 1.0, channels, what)
    bias = _per_channel(quantization.bias, 0.0, channels, what)
    across = [1] * codes.ndim
    across[channel_axis] = -1
    # In double precision as coremltools has it, so that the same float32 comes out.
    return np.asarray(codes * scale.reshape(across) + bias.reshape(across))


def _per_channel(values: Any, default: float, channels: int, what: str) -> np.ndarray:
    found = np.array(values if len(values) else [default], np.float64)
    if found.size not in (1, channels):
        raise InvalidModel(f"{what}: expected 1 or {channels} scales and biases, found {found.size}")
    return found


def _codes(found: Any, count: int, what: str) -> np.ndarray:
    bits = int(found.quantization.numberOfBits)
    if not 1 <= bits <= 8:
        raise InvalidModel(f"{what}: expected 1 to 8 bits, found {bits}")
    if found.int8RawValue:
        return np.frombuffer(found.int8RawValue, np.int8).astype(np.int64)
    packed = np.frombuffer(found.rawValue, np.uint8)
    if bits == 8:
        return packed.astype(np.int64)
    if packed.size * 8 < count * bits:
        raise InvalidModel(f"{what}: expected {count} weights of {bits} bits, found {packed.size} bytes")
    unpacked = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    return np.asarray(unpacked @ (1 << np.arange(bits - 1, -1, -1)))


def _check_count(found: int, shape: Sequence[int], what: str) -> None:
    if found != math.prod(shape):
        raise InvalidModel(f"{what}: expected {list(shape)} = {math.prod(shape)} weights, found {found}")
