"""Intervals and corrections that hold where the textbook ones do not: few items, skewed scores, correlated noise.

Nothing here assumes a normal distribution; what each function does assume is in its docstring.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tightship.errors import UsageError

__all__ = [
    "block_medians",
    "holm",
    "holm_levels",
    "mean_bound",
    "mean_tail",
    "median_interval",
    "wilson_interval",
]

MOST_BLOCKS, FEWEST_BLOCKS = 64, 8
"""64 blocks are nearly as sharp as all values; 8 are the fewest that leave room above the 6 that 95 % needs."""

INDEPENDENT = 0.1
"""Blocks whose ranks correlate less than this with the next block's are taken as independent."""


def block_medians(values: np.ndarray) -> np.ndarray:
    """Medians of consecutive blocks of `values` [n] (in order of time), in blocks so long that they are independent.

    Noise on a shared machine comes in bursts, so that neighbours tell the same twice. Blocks are doubled until the
    lag-1 correlation of their ranks is gone or 8 are left (Law and Carson 1979, "A sequential procedure for
    determining the length of a steady-state simulation", Operations Research 27: batching by correlation).
    """
    from scipy.stats import rankdata

    n_blocks = min(len(values), MOST_BLOCKS)
    while True:
        medians = np.array([np.median(block) for block in np.array_split(values, n_blocks)])
        if n_blocks // 2 < FEWEST_BLOCKS or _lag_correlation(rankdata(medians)) <= INDEPENDENT:
            return medians
        n_blocks //= 2


def median_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the median of independent `values` [n], whatever their distribution.

    The interval between two order statistics: the number of values below the median is binomial(n, 1/2) (Conover,
    Practical Nonparametric Statistics, 3rd ed., section 3.2). Raises `UsageError` where n is too small.
    """
    from scipy.stats import binom

    tail = (1 - confidence) / 2
    rank = int(binom.ppf(tail, len(values), 0.5))  # P(fewer than `rank` below the median) < tail
    if rank < 1:
        needed = int(np.ceil(np.log2(1 / tail)))
        raise UsageError(
            f"an interval of the median at {confidence:.0%} needs {needed} values, found {len(values)}; run more rounds"
        )
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[-rank])


def wilson_interval(n_right: int, n_items: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of a proportion (Wilson 1927, JASA 22:209)."""
    from scipy.stats import binomtest

    interval = binomtest(n_right, n_items).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mean_tail(values: np.ndarray, mean: float) -> float:
    """P-value of the hypothesis that the true mean of `values` [n] is `mean` or more.

    Student's t with Hall's cubic correction for skewness (Hall 1992, "On the removal of skewness by transformation",
    JRSS B 54:221), which unlike Johnson's (1978) quadratic rises throughout, so that it can be inverted. Values that
    are all the same give 0 or 1.
    """
    from scipy.stats import t as student

    centre, spread, skew = _moments(values)
    n = len(values)
    if spread == 0:
        return float(centre >= mean)
    distance = (centre - mean) / spread
    cubic = distance + skew * distance**2 / 3 + skew**2 * distance**3 / 27 + skew / (6 * n)
    return float(student.cdf(np.sqrt(n) * cubic, n - 1))


def mean_bound(values: np.ndarray, tail: float) -> float:
    """The mean whose `mean_tail` is `tail`: an upper bound at confidence 1 - tail (a lower bound for tail > 1/2)."""
    from scipy.stats import t as student

    centre, spread, skew = _moments(values)
    n = len(values)
    if spread == 0:
        return centre
    cubic = float(student.ppf(tail, n - 1)) / np.sqrt(n) - skew / (6 * n)
    # y = x + g x^2/3 + g^2 x^3/27 = ((1 + g x/3)^3 - 1) / g, so x = 3 (cbrt(1 + g y) - 1) / g
    distance = cubic if abs(skew) < 1e-6 else 3 * (np.cbrt(1 + skew * cubic) - 1) / skew
    return centre - spread * float(distance)


def holm_levels(p_values: Sequence[float], n_family: int, alpha: float) -> list[float]:
    """The level that Holm's procedure tests each hypothesis of a family of `n_family` at.

    Members of the family that are not in `p_values` count as p = 1. Sorted, the i-th smallest is tested at
    alpha / (n_family - i + 1); from the first that is not rejected the level stays (Holm 1979, Scand. J. Statist.
    6:65).
    """
    if n_family < len(p_values):
        raise UsageError(f"a family of {n_family} tests cannot hold {len(p_values)} p-values; state its full size")
    levels = [0.0] * len(p_values)
    n_rejected = 0
    for index in sorted(range(len(p_values)), key=p_values.__getitem__):
        levels[index] = alpha / (n_family - n_rejected)
        n_rejected += p_values[index] <= levels[index]
    return levels


def holm(p_values: Sequence[float], n_family: int, alpha: float) -> list[bool]:
    """Which hypotheses of a family Holm's procedure rejects; some true one among them with probability <= `alpha`."""
    levels = holm_levels(p_values, n_family, alpha)
    return [p_value <= level for p_value, level in zip(p_values, levels, strict=True)]


def _lag_correlation(values: np.ndarray) -> float:
    apart = values - values.mean()
    total = float((apart**2).sum())
    return float((apart[1:] * apart[:-1]).sum()) / total if total else 0.0


def _moments(values: np.ndarray) -> tuple[float, float, float]:
    # Mean, standard deviation (n - 1) and skewness; a spread within rounding of the mean counts as none.
    centre = float(values.mean())
    apart = values - centre
    spread = float(np.sqrt((apart**2).sum() / max(len(values) - 1, 1)))
    if spread <= 1e-12 * max(abs(centre), 1e-300):
        return centre, 0.0, 0.0
    return centre, spread, float((apart**3).mean() / (apart**2).mean() ** 1.5)
