"""What rounding left of a weight, in part made up for by two thin matrices: W x ~ Q x + A (B x).

The best rank-r pair for inputs of second moment `H = L L^T` has the largest singular values not of `W - Q` but of
`(W - Q) L`, whose squares are the output error (QERA, arXiv 2410.06040).
"""

from __future__ import annotations

import numpy as np

from tightship.errors import UsageError
from tightship.rounding.asymmetric import drift_target
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.cholesky import damped_factor
from tightship.rounding.second_moment import Moments

__all__ = ["low_rank_correction"]

_EXTRA_DIRECTIONS = 16
_POWER_STEPS = 4
"""Of the randomised search for the largest singular directions (arXiv 0909.4061): with both, within 1 % of exact."""


def low_rank_correction(
    weight: np.ndarray, rounded: BlockCodes, moments: Moments, rank: int, *, damping: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Return `A` float32 `[N, rank]` and `B` float32 `[rank, K]` for the least output error of `rounded` + A B.

    Where inputs have drifted (`moments.cross`), A B also takes the output towards that of the original model. Raises
    `UsageError` where the rank is not in 1..min(N, K), `DatasetError` where the moments are not positive definite.
    """
    n_rows, n_columns = weight.shape
    if not 1 <= rank <= min(n_rows, n_columns):
        raise UsageError(f"the rank of a correction of {weight.shape} must be 1..{min(weight.shape)}, found {rank}")
    error = drift_target(weight, moments, damping) - rounded.dequantize(n_columns)
    # L^T is the upper triangle, L the lower one of the transposed view.
    factor = np.triu(damped_factor(moments, damping))
    whitened = error @ factor.T
    left = _leading_directions(whitened, rank)
    return left, _right_divided(left.T @ whitened, factor.T)


def _leading_directions(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Return an orthonormal basis `[N, rank]` of the `rank` largest left singular directions of `matrix`."""
    n_directions = min(rank + _EXTRA_DIRECTIONS, *matrix.shape)
    start = np.random.default_rng(0).standard_normal((matrix.shape[1], n_directions), np.float32)
    basis = np.linalg.qr(matrix @ start)[0]
    for _ in range(_POWER_STEPS):
        basis = np.linalg.qr(matrix @ (matrix.T @ basis))[0]
    within = np.linalg.svd(basis.T @ matrix, full_matrices=False)[0]
    return np.ascontiguousarray(basis @ within[:, :rank])


def _right_divided(matrix: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return `matrix` L^-1."""
    from scipy.linalg.blas import strsm

    return np.ascontiguousarray(strsm(1.0, factor, np.asfortranarray(matrix), side=1, lower=1))
