"""How many bits each weight gets: the cheapest choice whose errors together stay below a limit."""

from __future__ import annotations

import numpy as np

from tightship.errors import UsageError

__all__ = ["least_cost", "least_noise"]


def least_noise(noise: np.ndarray, cost: np.ndarray, limit: float) -> np.ndarray:
    """Choose one column per row with the least sum of `noise` while `cost` sums to at most `limit`.

    `noise` and `cost` are `[operators, widths]`; returned are the columns, `[operators]`. Solved exactly, as an integer
    program (HiGHS). Raises `UsageError` where even the cheapest choice costs more.
    """
    return _choose(noise, cost, limit)


def least_cost(noise: np.ndarray, cost: np.ndarray, limit: float) -> np.ndarray:
    """Choose one column per row with the least sum of `cost` while `noise` sums to at most `limit`, as above."""
    return _choose(cost, noise, limit)


def _choose(objective: np.ndarray, limited: np.ndarray, limit: float) -> np.ndarray:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag

    n_rows, n_columns = objective.shape
    if limited.min(axis=1).sum() > limit:
        raise UsageError(f"no choice of bits stays below {limit:.4g}; the least there is is {limited.min(1).sum():.4g}")
    one_each = block_diag([np.ones((1, n_columns))] * n_rows)
    scale = max(abs(limit), 1e-30)
    found = milp(
        objective.reshape(-1) / max(objective.max(), 1e-30),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(limited.reshape(1, -1) / scale, -np.inf, limit / scale),
        ],
        bounds=Bounds(0, 1),
        integrality=np.ones(objective.size),
        options={"mip_rel_gap": 1e-4, "time_limit": 20},
    )
    if found.x is None:  # the solver ran out of time before it found any: what costs least is always allowed
        return np.asarray(np.argmin(limited, axis=1))
    return np.asarray(np.argmax(found.x.reshape(n_rows, n_columns), axis=1))
