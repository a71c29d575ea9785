"""Ranges of blocks of weights, searched for the least rounding error where each column counts by its importance.

Cutting the largest weights of a block rounds all others more finely. Which cut is best is tried out: both ends of the
range by the same fraction, then each end alone, then the scale that fits the codes best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tightship.rounding.blocks import BlockCodes
from tightship.rounding.encoding import Encoding

__all__ = ["search_ranges"]

_SHRINKS = {
    2: tuple(np.linspace(1.0, 0.3, 15)),
    3: tuple(np.linspace(1.0, 0.5, 11)),
    4: tuple(np.linspace(1.0, 0.7, 9)),
    8: (1.0, 0.98),
}
"""Fractions of the whole range to try, by bits: the fewer the codes, the more a narrow range gains."""

_END_SHRINKS = (0.75, 0.88, 1.12, 1.25)
"""Factors tried on one end alone, the other standing still."""

_NUMBERS_AT_ONCE = 2**17
"""Rows are taken in portions of about this many numbers, which stay in the processor's cache."""


def search_ranges(weight: np.ndarray, encoding: Encoding, importance: np.ndarray | None = None) -> BlockCodes:
    """Round `weight` `[N, K]` to the nearest codes, the range of each block taken for the least weighted error.

    `importance` `[K]` weighs the squared errors of the columns (the diagonal of E[x x^T]); all count alike without it.
    """
    n_rows, n_columns = weight.shape
    n_blocks, block = encoding.n_blocks(n_columns), encoding.block
    codes = np.empty((n_rows, n_blocks, block), np.uint8)
    scales = np.empty((n_rows, n_blocks), np.float32)
    zero_points = np.empty((n_rows, n_blocks), np.uint8)
    columns = _column_weights(importance, n_columns, n_blocks * block).reshape(n_blocks, block)
    step = max(1, _NUMBERS_AT_ONCE // (n_blocks * block))
    for start in range(0, n_rows, step):
        rows = slice(start, start + step)
        padded = np.zeros((len(weight[rows]), n_blocks * block), np.float32)
        padded[:, :n_columns] = weight[rows]
        found = _Search(padded.reshape(-1, n_blocks, block), columns, encoding).run()
        codes[rows], scales[rows], zero_points[rows] = found.codes, found.scales, found.zero_points
    return BlockCodes(codes, scales, zero_points)


def _column_weights(importance: np.ndarray | None, n_columns: int, n_padded: int) -> np.ndarray:
    weights = np.zeros(n_padded, np.float32)
    if importance is None or not importance.any():
        weights[:n_columns] = 1
    else:
        # A column that was never seen counts a little, so that a block of such columns is still rounded well.
        weights[:n_columns] = importance / importance.mean() + 1e-4
    return weights


@dataclass
class _Range:
    """Scales float32 and zero points float32 of blocks, both `[N, blocks]`."""

    scales: np.ndarray
    zero_points: np.ndarray


class _Search:
    """The best ranges found so far for `blocks` `[N, blocks, block]`, and how to improve on them."""

    def __init__(self, blocks: np.ndarray, columns: np.ndarray, encoding: Encoding) -> None:
        self.blocks, self.columns, self.encoding = blocks, columns, encoding
        self.low = np.minimum(blocks.min(axis=-1), 0)
        self.high = np.maximum(blocks.max(axis=-1), 0)
        self.error = np.full(self.low.shape, np.inf, np.float32)
        self.best = _Range(np.ones_like(self.low), np.zeros_like(self.low))
        self._buffer = np.empty_like(blocks)

    def run(self) -> BlockCodes:
        bits = self.encoding.bits
        if self.encoding.symmetric:
            for shrink in _SHRINKS[bits]:
                self._try(self._symmetric(shrink))
        else:
            self._try_ends(bits)
        self._fit_scales()
        codes = self._codes(self.best)
        return BlockCodes(codes.astype(np.uint8), self.best.scales, self.best.zero_points.astype(np.uint8))

    def _try_ends(self, bits: int) -> None:
        low_at, high_at = self.low.copy(), self.high.copy()
        for shrink in _SHRINKS[bits]:
            better = self._try(self._asymmetric(self.low * np.float32(shrink), self.high * np.float32(shrink)))
            np.copyto(low_at, self.low * np.float32(shrink), where=better)
            np.copyto(high_at, self.high * np.float32(shrink), where=better)
        for shrink in _END_SHRINKS if bits < 8 else ():
            self._try(self._asymmetric(low_at * np.float32(shrink), high_at))
            self._try(self._asymmetric(low_at, high_at * np.float32(shrink)))

    def _symmetric(self, shrink: float) -> _Range:
        """The weight of largest magnitude goes to code 0, whose side of the middle has one code more."""
        middle = 2 ** (self.encoding.bits - 1)
        largest = np.where(self.high > -self.low, self.high, self.low)
        scales = largest * np.float32(-shrink / middle)
        return _Range(_divisible(scales), np.full(scales.shape, middle, np.float32))

    def _asymmetric(self, low: np.ndarray, high: np.ndarray) -> _Range:
        top = np.float32(self.encoding.top)
        scales = _divisible(high / top - low / top)
        return _Range(scales, np.rint(-low / scales))

    def _codes(self, tried: _Range) -> np.ndarray:
        codes = self._buffer
        np.divide(self.blocks, tried.scales[..., None], out=codes)
        np.rint(codes, out=codes)
        codes += tried.zero_points[..., None]
        np.clip(codes, 0, self.encoding.top, out=codes)
        return codes

    def _try(self, tried: _Range) -> np.ndarray:
        """Keep `tried` for the blocks where it is better; return `[N, blocks]` which those are."""
        numbers = self._codes(tried)
        numbers -= tried.zero_points[..., None]
        numbers *= tried.scales[..., None]
        numbers -= self.blocks
        error = np.einsum("nbk,nbk,bk->nb", numbers, numbers, self.columns)
        better: np.ndarray = error < self.error
        np.copyto(self.error, error, where=better)
        np.copyto(self.best.scales, tried.scales, where=better)
        np.copyto(self.best.zero_points, tried.zero_points, where=better)
        return better

    def _fit_scales(self) -> None:
        """Try the scale of least squares for the codes chosen: sum(w z) / sum(z z) with z = code - zero point."""
        steps = self._codes(self.best)
        steps -= self.best.zero_points[..., None]
        above = np.einsum("nbk,nbk,bk->nb", steps, self.blocks, self.columns)
        below = np.einsum("nbk,nbk,bk->nb", steps, steps, self.columns)
        fitted = np.divide(above, below, out=self.best.scales.copy(), where=below > 0)
        self._try(_Range(_divisible(fitted), self.best.zero_points.copy()))


def _divisible(scales: np.ndarray) -> np.ndarray:
    # A block of zeros, or of numbers too small to divide by, becomes zeros.
    return np.where(np.abs(scales) < np.finfo(np.float32).tiny, np.float32(1), scales)
