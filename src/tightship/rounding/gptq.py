"""Rounding with error feedback: each column makes up for the errors of those rounded before it (GPTQ).

With `E = W - Q` the output error is tr(E H E^T). Cholesky's `H = L L^T` turns it into the squares of `E L`, whose
column j holds only errors of the columns from j on: `(E L)_j = e_j L_jj + sum_{i>j} e_i L_ij`. So columns are rounded
from the last to the first, each to the code nearest `w_j + sum_{i>j} e_i L_ij / L_jj`, which brings `(E L)_j` nearest
to zero. That is GPTQ (arXiv 2210.17323) seen as Babai's nearest plane (arXiv 2507.18553): no inverse of H is needed.
"""

from __future__ import annotations

import numpy as np

from tightship.rounding.asymmetric import drift_target
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.cholesky import damped_factor
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import Encoding
from tightship.rounding.second_moment import Moments

__all__ = ["gptq"]

_COLUMNS_AT_ONCE = 128
"""Errors reach the columns of a portion one by one, and all others in one matrix product per portion."""

_ROWS_AT_ONCE = 8192
"""Rows are independent; taking them in portions bounds the memory for embeddings of many rows."""


def gptq(
    weight: np.ndarray,
    moments: Moments,
    encoding: Encoding,
    *,
    activation_order: bool = True,
    damping: float = 0.01,
    ranges: BlockCodes | None = None,
) -> BlockCodes:
    """Round `weight` `[N, K]` for the least output error on inputs of these `moments`.

    `activation_order` rounds the columns of the largest activations first, so that all others make up for them; scales
    belong to blocks of the weight as it stands, so the order needs no index at run time. `damping`, as a fraction of
    the mean squared activation, is added to each activation's own. `ranges` gives scales and zero points, by default
    the result of a clip search. Where `moments.cross` is there, the output of the original model is aimed at, by
    `drift_target`.

    Raises `DatasetError` where the moments are not finite or not positive definite even with more damping.
    """
    importance = np.diagonal(moments.hessian)
    weight = drift_target(weight, moments, damping)
    if ranges is None:
        ranges = search_ranges(weight, encoding, importance)
    if not importance.any():
        return ranges
    order = np.argsort(importance, kind="stable") if activation_order else np.arange(len(importance))[::-1]
    factor = damped_factor(moments, damping, order)
    codes = np.empty_like(ranges.codes)
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        grid = BlockCodes(ranges.codes[rows], ranges.scales[rows], ranges.zero_points[rows])
        codes[rows] = _rounded(weight[rows], order, factor, grid, encoding)
    return BlockCodes(codes, ranges.scales, ranges.zero_points)


def _rounded(
    weight: np.ndarray,
    order: np.ndarray,
    factor: np.ndarray,
    grid: BlockCodes,
    encoding: Encoding,
) -> np.ndarray:
    """Return codes uint8 `[N, blocks, block]` of `weight` `[N, K]`; `grid` holds scales and zero points."""
    n_rows, n_columns = weight.shape
    scales = np.ascontiguousarray(grid.scales.T)
    zero_points = np.ascontiguousarray(grid.zero_points.T, np.float32)
    codes = np.repeat(grid.zero_points.T, encoding.block, axis=0)
    # Row j is column order[j] of the weight, and of the errors once it is rounded.
    errors = np.ascontiguousarray(weight.T[order], np.float32)
    for stop in range(n_columns, 0, -_COLUMNS_AT_ONCE):
        start = max(0, stop - _COLUMNS_AT_ONCE)
        offsets = factor[start:stop, stop:] @ errors[stop:]
        for column in range(stop - 1, start - 1, -1):
            block = order[column] // encoding.block
            offset = factor[column, column + 1 : stop] @ errors[column + 1 : stop]
            offset += offsets[column - start]
            offset /= factor[column, column]
            offset += errors[column]
            offset /= scales[block]
            np.rint(offset, out=offset)
            offset += zero_points[block]
            np.clip(offset, 0, encoding.top, out=offset)
            codes[order[column]] = offset
            offset -= zero_points[block]
            offset *= scales[block]
            errors[column] -= offset
    return np.ascontiguousarray(codes.T).reshape(n_rows, -1, encoding.block)
