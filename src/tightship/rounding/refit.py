"""Polishing of a rounded weight, block by block: its scales by least squares, and its codes one column at a time.

Both minimise tr((T - Q) H (T - Q)^T), the output error that error feedback minimises too, by exact steps along one
unknown after the other, so that none can make it worse. `T` is the weight, or `drift_target` where inputs have drifted.
"""

from __future__ import annotations

import numpy as np

from tightship.rounding.asymmetric import drift_target
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.encoding import Encoding
from tightship.rounding.second_moment import Moments

__all__ = ["refit"]

_ROWS_AT_ONCE = 8192
"""Rows are independent; taking them in portions bounds the memory for embeddings of many rows."""


def refit(
    weight: np.ndarray,
    rounded: BlockCodes,
    moments: Moments,
    encoding: Encoding,
    *,
    codes: bool = False,
    sweeps: int = 2,
    damping: float = 0.01,
) -> BlockCodes:
    """Return `rounded` with the scales, and with `codes` also the codes, improved for `weight` `[N, K]`.

    Zero points stay. Each of the `sweeps` costs about as much as `gptq`. The output error on inputs of `moments`,
    damped as `gptq` damps it, never grows.
    """
    weight = drift_target(weight, moments, damping)
    if not moments.hessian.any():
        return rounded
    better = BlockCodes(rounded.codes.copy(), rounded.scales.copy(), rounded.zero_points)
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        portion = BlockCodes(better.codes[rows], better.scales[rows], better.zero_points[rows])
        polish = _Polish(weight[rows], portion, moments, encoding, damping)
        for _ in range(sweeps):
            for block in range(portion.scales.shape[1]):
                polish.visit(block, codes)
    return better


class _Polish:
    """The errors of some rows, kept up to date while `rounded` is improved in place."""

    def __init__(
        self, weight: np.ndarray, rounded: BlockCodes, moments: Moments, encoding: Encoding, damping: float
    ) -> None:
        self.rounded, self.encoding = rounded, encoding
        self.hessian, self.ridge = moments.hessian, np.float32(moments.ridge(damping))
        self.errors = weight - rounded.dequantize(weight.shape[1])

    def visit(self, block: int, codes: bool) -> None:
        columns = slice(block * self.encoding.block, min((block + 1) * self.encoding.block, self.errors.shape[1]))
        gradient = self.errors @ self.hessian[columns].T
        gradient += self.ridge * self.errors[:, columns]
        hessian = self.hessian[columns, columns].copy()
        hessian[np.diag_indices_from(hessian)] += self.ridge
        if codes:
            self._improve_codes(block, columns, gradient, hessian)
        self._improve_scales(block, columns, gradient, hessian)

    def _steps(self, block: int, n_columns: int) -> np.ndarray:
        steps = self.rounded.codes[:, block, :n_columns].astype(np.float32)
        steps -= self.rounded.zero_points[:, block, None]
        return steps

    def _improve_scales(self, block: int, columns: slice, gradient: np.ndarray, hessian: np.ndarray) -> None:
        steps = self._steps(block, gradient.shape[1])
        curvature = np.einsum("nk,nk->n", steps @ hessian, steps)
        slope = np.einsum("nk,nk->n", gradient, steps)
        change = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
        scales = self.rounded.scales[:, block]
        # Codes are weights divided by their scale: one that vanishes would leave no way back.
        change[np.abs(scales + change) < np.finfo(np.float32).tiny] = 0
        scales += change
        self.errors[:, columns] -= change[:, None] * steps

    def _improve_codes(self, block: int, columns: slice, gradient: np.ndarray, hessian: np.ndarray) -> None:
        scales = self.rounded.scales[:, block]
        # Rows of these are columns of the weight: each is read and written whole.
        gradient_t = np.ascontiguousarray(gradient.T)
        codes_t = np.ascontiguousarray(self.rounded.codes[:, block].T, np.float32)
        changes_t = np.empty_like(gradient_t)
        for column in range(len(gradient_t)):
            wanted = gradient_t[column] / (hessian[column, column] * scales)
            wanted += codes_t[column]
            np.rint(wanted, out=wanted)
            np.clip(wanted, 0, self.encoding.top, out=wanted)
            change = (wanted - codes_t[column]) * scales
            gradient_t[column + 1 :] -= hessian[column, column + 1 :, None] * change
            codes_t[column] = wanted
            changes_t[column] = change
        gradient -= changes_t.T @ hessian
        self.rounded.codes[:, block] = codes_t.T
        self.errors[:, columns] -= changes_t.T
