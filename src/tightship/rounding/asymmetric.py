"""What to aim at where the inputs of a weight have drifted from those of the original model (GPTAQ, arXiv 2504.02692).

The original output is W x_float, the rounded one Q x. Their squared difference is tr((T - Q) H (T - Q)^T) up to a
constant, with `T = W + W C H^-1` and `C = E[(x_float - x) x^T]`: Q need only be close to T rather than to W. The paper
lets the drift of a column move only columns rounded after it; moving all, as far as the number of inputs seen can be
trusted, was as good or better on inputs held out.
"""

from __future__ import annotations

import numpy as np

from tightship.rounding.cholesky import damped_factor
from tightship.rounding.second_moment import Moments

__all__ = ["drift_of", "drift_target", "target_of"]


def drift_target(weight: np.ndarray, moments: Moments, damping: float) -> np.ndarray:
    """Return `T` `[N, K]`, the weight that best gives the original output; `weight` itself without `moments.cross`.

    Raises `DatasetError` where the moments are not finite or not positive definite even with more damping.
    """
    return target_of(weight, drift_of(weight, moments), moments, damping)


def drift_of(weight: np.ndarray, moments: Moments) -> np.ndarray | None:
    """Return `W C` `[N, K]`, which is all that `T` needs of `C`; None where nothing is known of a drift."""
    if moments.cross is None or not moments.hessian.any():
        return None
    return np.ascontiguousarray(weight @ moments.cross, np.float32)


def target_of(weight: np.ndarray, drift: np.ndarray | None, moments: Moments, damping: float) -> np.ndarray:
    """Return `T` `[N, K]` in the memory of `drift`; reads no `moments.cross`, and raises what `drift_target` does."""
    from scipy.linalg.lapack import spotrs

    if drift is None:
        return weight
    factor = damped_factor(moments, damping)
    spotrs(factor.T, drift.T, lower=1, overwrite_b=1)
    drift *= np.float32(moments.cross_trust)
    drift += weight
    return drift
