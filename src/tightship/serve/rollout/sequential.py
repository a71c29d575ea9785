"""Tests that stay valid while they are watched: bounds on a mean in [0, 1] that hold at every moment at once.

Betting against a claimed mean (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
JRSS-B 86, 2024): who starts with 1 and bets that observations exceed m reaches 1 / alpha at any time with a probability
of at most alpha if, whatever came before, their mean is at most m (Ville's inequality). So one may look after every
observation and stop when one likes. The capital is shared over fixed bets, so that it depends on how often each value
was seen and not on the order: counts of several workers can be added up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Seen", "log_capital", "lower_bound", "upper_bound"]

_BETS = np.geomspace(0.001, 0.95, 20)
"""Fractions of the largest bet that cannot go bankrupt. The best of 20 fixed bets is found at a cost of log(20)."""

_BISECTIONS = 40


@dataclass(frozen=True)
class Seen:
    """How often each value was seen: `values` in [0, 1] and their `counts`, both float64 of one length."""

    values: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(failures: int, total: int) -> Seen:
        """Return what was seen of something that happens or does not."""
        return Seen(np.array([0.0, 1.0]), np.array([total - failures, failures], np.float64))

    @property
    def total(self) -> int:
        """Number of observations."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Their mean, 0 where there are none."""
        return float(self.values @ self.counts / self.counts.sum()) if self.total else 0.0

    def reversed(self) -> Seen:
        """The same of one minus each value."""
        return Seen(1.0 - self.values, self.counts)


def log_capital(seen: Seen, mean: float) -> float:
    """Return the logarithm of what betting on more than `mean` earned; log(1 / alpha) refutes "at most mean"."""
    if mean <= 0.0:
        return np.inf if seen.mean > 0.0 else 0.0
    if mean >= 1.0:
        return 0.0
    gains = np.log1p(np.outer(_BETS, seen.values / mean - 1.0)) @ seen.counts
    top = float(gains.max())
    return top + float(np.log(np.mean(np.exp(gains - top))))


def lower_bound(seen: Seen, alpha: float) -> float:
    """Return what the mean exceeds, with a probability of being wrong at any time of at most `alpha`."""
    low, high = 0.0, seen.mean  # the capital falls as the claimed mean grows
    if seen.total == 0 or high == 0.0:
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if log_capital(seen, middle) >= -np.log(alpha):
            low = middle
        else:
            high = middle
    return low


def upper_bound(seen: Seen, alpha: float) -> float:
    """Return what the mean is below, with a probability of being wrong at any time of at most `alpha`."""
    return 1.0 - lower_bound(seen.reversed(), alpha)
