"""Codes packed into int32 words, as checkpoints have them, and into bytes, as engines do; the first lies lowest."""

from __future__ import annotations

import numpy as np

__all__ = ["pack_bytes", "unpack_words"]


def unpack_words(words: np.ndarray, bits: int) -> np.ndarray:
    """Return the codes, uint8 `[..., n * 32 / bits]`, of int32 words `[..., n]`; `bits` divides 8."""
    octets = np.ascontiguousarray(words.astype("<i4", copy=False)).view(np.uint8)
    if bits == 8:
        return octets
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (octets[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(*octets.shape[:-1], -1)


def pack_bytes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return bytes `[..., ceil(n * bits / 8)]` of codes, uint8 `[..., n]`; spare bits are zero."""
    per_byte = 8 // bits
    n_bytes = -(-codes.shape[-1] // per_byte)
    packed = np.zeros((*codes.shape[:-1], n_bytes), np.uint8)
    for place in range(per_byte):
        here = codes[..., place::per_byte]
        packed[..., : here.shape[-1]] |= here << np.uint8(place * bits)
    return packed
