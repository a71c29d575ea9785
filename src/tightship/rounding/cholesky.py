"""Cholesky's factor of the second moment of activations, damped until there is one."""

from __future__ import annotations

import numpy as np

from tightship.errors import DatasetError
from tightship.rounding.second_moment import Moments

__all__ = ["damped_factor"]

_ATTEMPTS = 4
"""How often the damping is raised tenfold before a matrix is given up as not positive definite."""


def damped_factor(moments: Moments, damping: float, order: np.ndarray | None = None) -> np.ndarray:
    """Return `L^T` (float32 `[K, K]`, C order; what lies below the diagonal is not zero) of `H = L L^T`.

    `H` is the second moment, damped by `moments.ridge(damping)`, its rows and columns in `order`. It is damped up to a
    thousand times more where rounding left it short of positive definite. Raises `DatasetError` where that is not
    enough, or the moments are not finite.
    """
    from scipy.linalg.lapack import spotrf

    ridge = moments.ridge(damping)
    if not np.isfinite(ridge):
        raise DatasetError("second moments of activations must be finite, found NaN or infinity")
    for _ in range(_ATTEMPTS):
        factor = _ordered(moments.hessian, order)
        factor[np.diag_indices_from(factor)] += np.float32(ridge)
        # The transposed view is column-major, as LAPACK wants it, and its lower triangle is our upper one.
        _, failed_at = spotrf(factor.T, lower=1, clean=0, overwrite_a=1)
        if failed_at == 0:
            return factor
        ridge *= 10
    raise DatasetError(
        f"second moments of {len(factor)} activations must be positive definite, found otherwise at column {failed_at} "
        f"even with {ridge / 10:.3g} added to each square: they are no means of x x^T, or hold NaN"
    )


def _ordered(hessian: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    if order is None:
        return np.array(hessian, np.float32, order="C")
    return np.ascontiguousarray(hessian[np.ix_(order, order)], np.float32)
