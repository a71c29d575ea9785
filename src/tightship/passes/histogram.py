"""The values a tensor takes, counted in bins of bounded number, and the ranges that quantization may cut from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

import numpy as np

__all__ = ["METHODS", "Histogram", "Method"]

Method = Literal["minmax", "percentile", "mse", "entropy"]

METHODS: tuple[str, ...] = get_args(Method)

_LEAST_EXPONENT = -100
_N_LEVELS = 256
_SHRINKS = tuple(np.linspace(1.0, 0.2, 41).tolist())
"""Fractions of the range seen that are tried."""

_ALL_COUNTED = 2**16
_ONE_IN = 8
"""Of larger arrays one value in eight is counted, drawn at random: a regular sample would favour some channels."""


class Histogram:
    """Counts of values in equal bins over `[-2**k, 2**k)`; neighbouring bins merge when k grows.

    Bin edges are exact binary fractions, so that the counts of arrays of up to 2**16 elements depend on the values
    alone, not on their order or batches. The smallest and largest value are exact whatever is counted.
    """

    n_bins = 8192

    def __init__(self) -> None:
        self.counts = np.zeros(self.n_bins, dtype=np.int64)
        self._exponent: int | None = None
        self._low = self._high = 0.0
        self._random = np.random.default_rng(0)

    def add(self, values: np.ndarray) -> bool:
        """Count a float32 array; return False, having counted nothing, where an element is NaN or infinite."""
        if values.size == 0:
            return True
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self._low, self._high = min(low, self._low), max(high, self._high)
        counted = self._sample(values.reshape(-1))
        if low == high == 0:
            self.counts[self.n_bins // 2] += counted.size
            return True
        exponent = self._reach(max(-low, high))
        bins = counted * np.float32(self.n_bins // 2 * 2.0**-exponent)
        np.floor(bins, out=bins)
        self.counts += np.bincount(bins.astype(np.int64) + self.n_bins // 2, minlength=self.n_bins)
        return True

    def range(self, method: Method, percentile: float, symmetric: bool) -> tuple[float, float]:
        """Return `low <= 0 <= high` for 256 levels, by one of

        `minmax`      the smallest and the largest value
        `percentile`  at most half of the other values lie beyond either side
        `mse`         the least mean squared error of quantizing what was counted
        `entropy`     the least Kullback-Leibler divergence of the quantized from the counted distribution, as in
                      Migacz, "8-bit inference with TensorRT" (2017), both ends drawn in together

        `symmetric` looks for a range of equal sides; where no value is negative, low is 0 all the same.
        """
        low, high = self._low, self._high
        if self._exponent is not None and method == "percentile":
            low, high = self._percentile(percentile)
        if symmetric and low < 0:
            low, high = min(low, -high), max(high, -low)
        if self._exponent is None or method not in _SEARCHES or low == high:
            return low, high
        return _SEARCHES[method](*self._counted(), low, high, symmetric and low < 0)

    def _percentile(self, percentile: float) -> tuple[float, float]:
        width = self._width
        cumulated = np.cumsum(self.counts)
        left_out = cumulated[-1] * (100.0 - percentile) / 200.0
        first = int(np.searchsorted(cumulated, left_out, side="right"))
        last = int(np.searchsorted(cumulated, cumulated[-1] - left_out, side="left"))
        low, high = (first - self.n_bins // 2) * width, (last + 1 - self.n_bins // 2) * width
        return min(max(low, self._low), 0.0), max(min(high, self._high), 0.0)

    @property
    def _width(self) -> float:
        return 2.0 * 2.0 ** (self._exponent or 0) / self.n_bins

    def _counted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the middles of the bins that are not empty, and their counts."""
        (filled,) = np.nonzero(self.counts)
        middles = (filled - self.n_bins // 2 + 0.5) * self._width
        # The bin from zero on holds what a Relu cut off, which is zero and costs nothing to represent.
        middles[filled == self.n_bins // 2] = 0.0
        return middles, self.counts[filled].astype(np.float64)

    def _sample(self, values: np.ndarray) -> np.ndarray:
        if values.size <= _ALL_COUNTED:
            return values
        return values[self._random.integers(0, values.size, max(_ALL_COUNTED, values.size // _ONE_IN))]

    def _reach(self, peak: float) -> int:
        """Merge bins until they reach beyond `peak`; return k."""
        wanted = max(math.frexp(peak)[1], _LEAST_EXPONENT)
        if self._exponent is None:
            self._exponent = wanted
        while self._exponent < wanted:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(merged, self.n_bins // 4)
            self._exponent += 1
        return self._exponent


def _least_squares(
    values: np.ndarray, counts: np.ndarray, low: float, high: float, symmetric: bool
) -> tuple[float, float]:
    """Draw in one end after the other, twice, to where the squared error is least."""
    if symmetric:
        return _least(((low * by, high * by) for by in _SHRINKS), lambda *ends: _squared_error(values, counts, *ends))
    widest = low, high
    for _ in range(2):
        for end in (1, 0):
            other = high if end == 0 else low
            tried = ((widest[0] * by, other) if end == 0 else (other, widest[1] * by) for by in _SHRINKS)
            low, high = _least(tried, lambda *ends: _squared_error(values, counts, *ends))
    return low, high


def _least_divergence(
    values: np.ndarray, counts: np.ndarray, low: float, high: float, symmetric: bool
) -> tuple[float, float]:
    # Zeros that a Relu left would outweigh all else; they cost nothing in any range.
    values, counts = values[values != 0], counts[values != 0]
    return _least(((low * by, high * by) for by in _SHRINKS), lambda *ends: _divergence(values, counts, *ends))


def _least(tried: Iterable[tuple[float, float]], cost: Callable[[float, float], float]) -> tuple[float, float]:
    return min(tried, key=lambda ends: cost(*ends))


def _levels(values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, float, int]:
    """Return the level 0..255 of each value, the step between levels, and the level of zero."""
    step = max((high - low) / (_N_LEVELS - 1), 2.0**-126)
    zero = round(-low / step)
    return np.clip(np.rint(values / step) + zero, 0, _N_LEVELS - 1), step, zero


def _squared_error(values: np.ndarray, counts: np.ndarray, low: float, high: float) -> float:
    levels, step, zero = _levels(values, low, high)
    return float(counts @ np.square((levels - zero) * step - values))


def _divergence(values: np.ndarray, counts: np.ndarray, low: float, high: float) -> float:
    """Divergence of what is left of the counts when each level spreads its own evenly over its bins.

    What lies outside counts as lying at the end, where the quantized distribution does not have it: that is its cost.
    """
    levels, _, _ = _levels(values, low, high)
    inside = (values >= low) & (values <= high)
    kept, level = counts[inside], levels[inside].astype(np.int64)
    if not kept.size:
        return math.inf
    wanted = kept.copy()
    wanted[0] += counts[values < low].sum()
    wanted[-1] += counts[values > high].sum()
    spread = np.bincount(level, kept) / np.maximum(np.bincount(level), 1)
    wanted, found = wanted / wanted.sum(), spread[level] / kept.sum()
    return float(wanted @ np.log(wanted / found))


_SEARCHES: Mapping[str, Callable[[np.ndarray, np.ndarray, float, float, bool], tuple[float, float]]] = {
    "mse": _least_squares,
    "entropy": _least_divergence,
}
