"""Weights and activations as rounding meets them: correlated, of unequal size, and drifted by earlier rounding."""

from __future__ import annotations

import numpy as np

from tightship.rounding.blocks import BlockCodes
from tightship.rounding.second_moment import Moments, SecondMoment


def weights(n_rows: int, n_columns: int, seed: int = 0) -> np.ndarray:
    """Numbers with heavier tails than normal ones, as trained weights have."""
    return np.random.default_rng(seed).standard_t(6, (n_rows, n_columns)).astype(np.float32)


class Activations:
    """A source of activations whose spectrum falls as 1/k, with one column in a hundred ten times as large."""

    def __init__(self, n_columns: int, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        directions = np.linalg.qr(rng.standard_normal((n_columns, n_columns)))[0]
        self._mix = directions / np.sqrt(np.arange(1, n_columns + 1))
        self._mix *= np.exp(0.5 * rng.standard_normal(n_columns))[:, None]
        self._mix[rng.choice(n_columns, max(1, n_columns // 100), replace=False)] *= 10
        self._drift = rng.standard_normal((n_columns, n_columns)) / np.sqrt(n_columns)
        self._rng = rng

    def draw(self, n_rows: int) -> np.ndarray:
        """Return float32 `[n_rows, K]`."""
        rows = self._rng.standard_normal((n_rows, self._mix.shape[1])) @ self._mix.T
        return rows.astype(np.float32)

    def drifted(self, x: np.ndarray, share: float) -> np.ndarray:
        """Return what `x` becomes where the layers before add errors of `share` of its size, half systematic."""
        systematic = np.tanh(x @ self._drift / x.std()) * x.std()
        noise = self._rng.standard_normal(x.shape) * x.std(axis=0)
        return (x + share * (systematic + noise)).astype(np.float32)


def moments_of(x: np.ndarray, x_float: np.ndarray | None = None) -> Moments:
    gathered = SecondMoment(x.shape[1], paired=x_float is not None)
    gathered.add(x, x_float)
    return gathered.moments()


def output_error(weight: np.ndarray, rounded: BlockCodes, x: np.ndarray, x_float: np.ndarray | None = None) -> float:
    """Relative error of the rounded weight's output on `x` to that of `weight` on `x_float` (or on `x`)."""
    wanted = weight @ (x if x_float is None else x_float).T
    return float(np.linalg.norm(wanted - rounded.dequantize(weight.shape[1]) @ x.T) / np.linalg.norm(wanted))
