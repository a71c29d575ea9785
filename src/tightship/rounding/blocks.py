"""Rounding a weight matrix to a few bits per number, with one scale per block of a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tightship.rounding.encoding import Encoding

__all__ = ["BlockCodes", "quantize_blocks"]

_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Fractions of a block's range to try: cutting the few largest weights can round all others more finely."""

_ROWS_AT_ONCE_ELEMENTS = 2**20
"""Rows are taken in portions of about this many numbers, so that memory does not grow with the matrix."""


@dataclass(frozen=True)
class BlockCodes:
    """A matrix `[N, K]` as `(codes - zero_points) * scales`, block by block along K.

    `codes` uint8 `[N, blocks, block]` (the last block of a row is filled up with zero weights), `scales` float32
    `[N, blocks]`, `zero_points` uint8 `[N, blocks]`.
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray

    def dequantize(self, n_columns: int) -> np.ndarray:
        """Return the matrix `[N, n_columns]` that the codes stand for."""
        return _dequantize(self.codes, self.scales, self.zero_points).reshape(len(self.codes), -1)[:, :n_columns]


def quantize_blocks(weight: np.ndarray, encoding: Encoding) -> BlockCodes:
    """Round `weight` `[N, K]` to the nearest codes.

    Below 8 bits each block takes the range with the least squared error out of a few slightly clipped ones.
    """
    n_rows, n_columns = weight.shape
    n_blocks, block = encoding.n_blocks(n_columns), encoding.block
    codes = np.empty((n_rows, n_blocks, block), np.uint8)
    scales = np.empty((n_rows, n_blocks), np.float32)
    zero_points = np.empty((n_rows, n_blocks), np.uint8)
    step = max(1, _ROWS_AT_ONCE_ELEMENTS // (n_blocks * block))
    for start in range(0, n_rows, step):
        rows = slice(start, start + step)
        blocks = np.zeros((len(weight[rows]), n_blocks * block), np.float32)
        blocks[:, :n_columns] = weight[rows]
        found = _best(blocks.reshape(-1, n_blocks, block), encoding)
        codes[rows], scales[rows], zero_points[rows] = found.codes, found.scales, found.zero_points
    return BlockCodes(codes, scales, zero_points)


def _best(blocks: np.ndarray, encoding: Encoding) -> BlockCodes:
    bits = encoding.bits
    ranges = _symmetric_range if encoding.symmetric else _asymmetric_range
    shrinks = _SHRINKS if bits < 8 else (1.0,)
    best = _rounded(blocks, *ranges(blocks, bits, shrinks[0]), bits)
    least = _squared_error(blocks, best)
    for shrink in shrinks[1:]:
        other = _rounded(blocks, *ranges(blocks, bits, shrink), bits)
        error = _squared_error(blocks, other)
        better = error < least
        np.copyto(least, error, where=better)
        np.copyto(best.codes, other.codes, where=better[..., None])
        np.copyto(best.scales, other.scales, where=better)
        np.copyto(best.zero_points, other.zero_points, where=better)
    return best


def _asymmetric_range(blocks: np.ndarray, bits: int, shrink: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points that map the range of each block, widened to hold zero, to all codes."""
    top = 2**bits - 1
    low = np.minimum(blocks.min(axis=-1), 0) * np.float32(shrink)
    high = np.maximum(blocks.max(axis=-1), 0) * np.float32(shrink)
    scales = _divisible(high / top - low / top)
    return scales, np.rint(-low / scales).astype(np.uint8)


def _symmetric_range(blocks: np.ndarray, bits: int, shrink: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales that map the weight of largest magnitude to code 0, the middle code standing for zero.

    The middle of an even number of codes leaves one more below it, so the largest weight goes there, which makes the
    scale negative where that weight is positive.
    """
    middle = 2 ** (bits - 1)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    scales = _divisible(largest * np.float32(-shrink / middle))
    return scales, np.full(scales.shape, middle, np.uint8)


def _divisible(scales: np.ndarray) -> np.ndarray:
    # A block of zeros, or of numbers too small to divide by, becomes zeros.
    return np.where(np.abs(scales) < np.finfo(np.float32).tiny, np.float32(1), scales)


def _rounded(blocks: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, bits: int) -> BlockCodes:
    codes = blocks / scales[..., None]
    np.rint(codes, out=codes)
    codes += zero_points[..., None]
    np.clip(codes, 0, 2**bits - 1, out=codes)
    return BlockCodes(codes.astype(np.uint8), scales, zero_points)


def _squared_error(blocks: np.ndarray, rounded: BlockCodes) -> np.ndarray:
    difference = _dequantize(rounded.codes, rounded.scales, rounded.zero_points)
    difference -= blocks
    error: np.ndarray = np.einsum("nbk,nbk->nb", difference, difference)
    return error


def _dequantize(codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
    weight = codes.astype(np.float32)
    weight -= zero_points[..., None]
    weight *= scales[..., None]
    return weight
