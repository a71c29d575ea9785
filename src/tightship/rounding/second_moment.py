"""Second moments of the activations that a weight reads: all that error feedback needs to know of the data.

A weight `[N, K]` rounded to `Q` is off by `(W - Q) x` for an input `x`, on average over the data
`tr((W - Q) H (W - Q)^T)` with `H = E[x x^T]`, however many inputs were seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tightship.errors import DatasetMismatch

__all__ = ["Moments", "SecondMoment"]

_ROWS_AT_ONCE = 4096
"""Activations are taken in portions of so many rows, so that no copy of a whole batch is made."""

_MIRROR_TILE = 1024

_SAMPLING = 0.15
"""Extra damping per weight and input seen: E[x x^T] of K activations over n inputs is noise of relative size K / n.

Held-out error was least at a total damping of 0.3, 0.1, 0.03 and 0.01 of the mean square for n = K/2, 2K, 8K and 32K.
"""


@dataclass(frozen=True)
class Moments:
    """Means over `n_rows` inputs: `hessian` = E[x x^T] and `cross` = E[(x_float - x) x^T], both `[K, K]` float32.

    `x` is what the weight reads in the model rounded so far, `x_float` what it reads in the original; `cross` is None
    where only one of the two was seen. Row `i`, column `j` of `cross` is E[(x_float - x)_i x_j].
    """

    hessian: np.ndarray
    cross: np.ndarray | None
    n_rows: int

    def ridge(self, damping: float) -> float:
        """What to add to each squared activation: `damping` of their mean, and more where few inputs were seen."""
        mean = float(np.diagonal(self.hessian).mean(dtype=np.float64))
        return (damping + _SAMPLING * len(self.hessian) / self.n_rows) * mean

    @property
    def cross_trust(self) -> float:
        """The share of the drift `cross` to act on, 0..1: half where as few inputs as half the columns were seen."""
        return self.n_rows / (self.n_rows + len(self.hessian) / 2)


class SecondMoment:
    """Gathers `Moments` of `n_columns` activations batch by batch, in one or (`paired`) two matrices `[K, K]`.

    Running means in float32: products are summed a few thousand rows at a time and weighted into the mean, so rounding
    stays near 1e-6 of the largest, far below the damping that any use of them needs, at half the memory of float64.
    """

    def __init__(self, n_columns: int, *, paired: bool = False) -> None:
        self.n_rows = 0
        # Column-major and symmetric: what BLAS updates in place, without a second matrix.
        self._hessian = np.zeros((n_columns, n_columns), np.float32, order="F")
        self._cross = np.zeros((n_columns, n_columns), np.float32, order="F") if paired else None

    def add(self, x: np.ndarray, x_float: np.ndarray | None = None) -> None:
        """Add activations `[..., K]`; `x_float`, of the same shape, are those of the original model where `paired`.

        Raises `DatasetMismatch` where a shape does not fit, `x_float` is missing or too many, or a number not finite.
        """
        self._check(x, x_float)
        rows = x.reshape(-1, x.shape[-1])
        float_rows = None if x_float is None else x_float.reshape(rows.shape)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            portion = slice(start, start + _ROWS_AT_ONCE)
            self._add_rows(rows[portion], None if float_rows is None else float_rows[portion])

    def moments(self) -> Moments:
        """Return the means so far; the arrays are this object's own, so that a later `add` changes them.

        Raises `DatasetMismatch` where nothing was added.
        """
        if not self.n_rows:
            raise DatasetMismatch(
                "second moments of activations need at least one row of them, found none: add a batch"
            )
        _mirror(self._hessian)
        return Moments(self._hessian, self._cross, self.n_rows)

    def _check(self, x: np.ndarray, x_float: np.ndarray | None) -> None:
        n_columns = len(self._hessian)
        if x.ndim < 1 or x.shape[-1] != n_columns:
            raise DatasetMismatch(f"activations must have {n_columns} columns, found shape {x.shape}")
        if (x_float is None) == (self._cross is not None):
            wanted = "both streams of activations" if self._cross is not None else "one stream of activations"
            raise DatasetMismatch(f"expected {wanted}, as `paired` says, found {1 if x_float is None else 2}")
        if x_float is not None and x_float.shape != x.shape:
            raise DatasetMismatch(f"the original model's activations must have shape {x.shape}, found {x_float.shape}")

    def _add_rows(self, x: np.ndarray, x_float: np.ndarray | None) -> None:
        from scipy.linalg.blas import sgemm, ssyrk

        x = np.ascontiguousarray(x, np.float32)
        if not np.isfinite(x).all() or not (x_float is None or np.isfinite(x_float).all()):
            raise DatasetMismatch("activations must be finite, found NaN or infinity: leave such inputs out")
        self.n_rows += len(x)
        new, old = 1 / self.n_rows, 1 - len(x) / self.n_rows
        ssyrk(new, x.T, beta=old, c=self._hessian, lower=1, overwrite_c=1)
        if x_float is not None:
            drift = np.subtract(x_float, x, dtype=np.float32)
            sgemm(new, drift.T, x.T, beta=old, c=self._cross, trans_b=1, overwrite_c=1)


def _mirror(matrix: np.ndarray) -> None:
    """Copy the lower triangle onto the upper one, tile by tile."""
    for start in range(0, len(matrix), _MIRROR_TILE):
        stop = start + _MIRROR_TILE
        corner = matrix[start:stop, start:stop]
        corner[...] = np.tril(corner) + np.tril(corner, -1).T
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
