"""Small whole numbers packed into bytes, least significant bits first, as ONNX Runtime and OpenVINO read them."""

from __future__ import annotations

import numpy as np

from tightship.errors import UsageError

__all__ = ["PACKED_BITS", "pack", "unpack"]

PACKED_BITS = (2, 4, 8)
"""Widths that fill a byte without a rest."""


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes `[..., n]` of `bits` bits into bytes `[..., ceil(n * bits / 8)]`; spare bits are zero.

    The first code lies in the least significant bits of the first byte. Raises `UsageError` where `bits` is not in
    `PACKED_BITS` or a code does not fit.
    """
    per_byte = _codes_per_byte(bits)
    if codes.size and not 0 <= codes.min() <= codes.max() < 2**bits:
        raise UsageError(f"codes of {bits} bits must be 0..{2**bits - 1}, found {codes.min()}..{codes.max()}")
    *outer, n = codes.shape
    n_bytes = -(-n // per_byte)
    packed = np.zeros((*outer, n_bytes), np.uint8)
    for place in range(per_byte):
        here = codes[..., place::per_byte].astype(np.uint8)
        packed[..., : here.shape[-1]] |= here << np.uint8(place * bits)
    return packed


def unpack(packed: np.ndarray, bits: int, n: int) -> np.ndarray:
    """Return the `n` codes `[..., n]` (uint8) that `pack` made bytes `[..., ceil(n * bits / 8)]` of.

    Raises `UsageError` where `bits` is not in `PACKED_BITS` or the bytes are not those of `n` codes.
    """
    per_byte = _codes_per_byte(bits)
    n_bytes = -(-n // per_byte)
    if packed.shape[-1] != n_bytes:
        raise UsageError(f"{n} codes of {bits} bits fill {n_bytes} bytes, found {packed.shape[-1]}")
    codes = np.empty((*packed.shape[:-1], n), np.uint8)
    for place in range(per_byte):
        here = codes[..., place::per_byte]
        here[...] = (packed[..., : here.shape[-1]] >> np.uint8(place * bits)) & np.uint8(2**bits - 1)
    return codes


def _codes_per_byte(bits: int) -> int:
    if bits not in PACKED_BITS:
        raise UsageError(f"codes can be packed at {', '.join(map(str, PACKED_BITS))} bits, found {bits}")
    return 8 // bits
