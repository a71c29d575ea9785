"""Scaling of the inputs of weights, so that columns of large activations are rounded more finely (AWQ).

`W x = (W diag(s)) (x / s)`: a column multiplied by a large `s` keeps more of its precision within its block, and what
comes before (a norm's gain, the rows of another weight) takes 1/s for free. arXiv 2306.00978: `s` is a power of the
size of the activations, the power found by trying.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tightship.errors import DatasetMismatch
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import Encoding
from tightship.rounding.second_moment import Moments

__all__ = ["awq_scales"]

_POWERS = tuple(np.linspace(0.1, 1.0, 10))

_MOST_ROWS = 512
"""Rows tried in all: the power depends on the columns, and a sample of rows tells as much as all of them."""

_LEAST_GAIN = 0.9
"""The squared error must become this fraction of what it was, or less, for scaling to be worth it."""

_LARGEST = 1e4
"""Scales stay within 1/`_LARGEST` to `_LARGEST`, so that neither what is multiplied nor divided leaves float16."""


def awq_scales(weights: Sequence[np.ndarray], moments: Moments, encoding: Encoding) -> np.ndarray:
    """Return `s` float32 `[K]`: multiply the columns of all `weights` `[N_i, K]` by it and their common input by 1/s.

    The power of the root mean square activation is the one of the least output error after rounding to nearest with a
    clip search; all ones where scaling does not help. Raises `DatasetMismatch` where a weight does not have K columns.
    """
    n_columns = len(moments.hessian)
    for weight in weights:
        if weight.shape[1] != n_columns:
            raise DatasetMismatch(
                f"weights that read {n_columns} inputs must have as many columns, found {weight.shape}"
            )
    rows = _sample(weights)
    best = np.ones(n_columns, np.float32)
    least = _LEAST_GAIN * _output_error(rows, best, moments.hessian, encoding)
    for power in _POWERS:
        scales = _scales(np.diagonal(moments.hessian), power)
        error = _output_error(rows, scales, moments.hessian, encoding)
        if error < least:
            best, least = scales, error
    return best


def _sample(weights: Sequence[np.ndarray]) -> np.ndarray:
    """Some rows of all weights, each weight by its share; drawn, since rows at equal distances may be one head's."""
    rows = np.concatenate([np.asarray(weight, np.float32) for weight in weights])
    if len(rows) <= _MOST_ROWS:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), _MOST_ROWS, replace=False))]


def _scales(squares: np.ndarray, power: float) -> np.ndarray:
    """Return activations' root mean squares to a power, their geometric middle at 1; 1 for those never seen."""
    seen = squares > 0
    scales = np.ones(len(squares), np.float64)
    scales[seen] = squares[seen].astype(np.float64) ** (power / 2)
    if seen.any():
        scales[seen] /= np.sqrt(scales[seen].max() * scales[seen].min())
    return np.clip(scales, 1 / _LARGEST, _LARGEST).astype(np.float32)


def _output_error(rows: np.ndarray, scales: np.ndarray, hessian: np.ndarray, encoding: Encoding) -> float:
    scaled = rows * scales
    importance = np.diagonal(hessian) / np.square(scales)
    error = search_ranges(scaled, encoding, importance).dequantize(rows.shape[1]) - scaled
    error /= scales
    return float(np.einsum("nk,nk->", error @ hessian, error))
