"""One weight, rounded by the method asked for: where clip search, error feedback and refit come together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tightship.errors import DatasetMismatch, InvalidModel
from tightship.rounding.asymmetric import drift_target
from tightship.rounding.blocks import BlockCodes, quantize_blocks
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import BITS, Encoding
from tightship.rounding.gptq import gptq
from tightship.rounding.refit import refit
from tightship.rounding.second_moment import Moments

__all__ = ["PRESETS", "Method", "round_weight"]


@dataclass(frozen=True)
class Method:
    """How a weight is rounded; all but `clip` needs the moments of its inputs.

    `clip`: search the range of each block. `error_feedback`: each column makes up for the errors of others (GPTQ),
    those of large activations first with `activation_order`. `asymmetric_calibration`: aim at the output of the
    original model rather than at that of the same weight on drifted inputs (GPTAQ). `refit`: scales and codes polished
    afterwards, at twice the time. `damping`: added to the squared activations, as a fraction of their mean.
    """

    clip: bool = True
    error_feedback: bool = True
    activation_order: bool = True
    asymmetric_calibration: bool = True
    refit: bool = False
    damping: float = 0.01


_FAST = Method(error_feedback=False)
_FEEDBACK = Method()
_POLISHED = Method(refit=True)

PRESETS: dict[str, dict[int, Method]] = {
    "fast": dict.fromkeys(BITS, _FAST),
    "balanced": {8: _FEEDBACK, 4: _FEEDBACK, 3: _POLISHED, 2: _POLISHED},
    "best": dict.fromkeys(BITS, _POLISHED),
}
"""Methods by preset and bits. `fast` needs no data. A refit takes 1-2 % off the error at 8 and 4 bits, 2-3 % below."""

_LARGEST_WEIGHT = 1e18
"""Sums of squares of larger numbers do not fit float32."""


def round_weight(weight: np.ndarray, moments: Moments | None, encoding: Encoding, method: Method) -> BlockCodes:
    """Round `weight` `[N, K]` as `method` says; without `moments` of its inputs only the clip search is left.

    Raises `DatasetMismatch` where the moments are not those of K inputs, `DatasetError` where they cannot be used,
    `InvalidModel` where the weight holds NaN, infinity, or numbers whose squares leave float32.
    """
    _check(weight, moments)
    if moments is None:
        return _nearest(weight, None, encoding, method)
    if method.asymmetric_calibration:
        weight = drift_target(weight, moments, method.damping)
    moments = replace(moments, cross=None)
    rounded = _nearest(weight, np.diagonal(moments.hessian), encoding, method)
    if method.error_feedback:
        order, damping = method.activation_order, method.damping
        rounded = gptq(weight, moments, encoding, activation_order=order, damping=damping, ranges=rounded)
    if method.refit:
        rounded = refit(weight, rounded, moments, encoding, codes=True, damping=method.damping)
    return rounded


def _nearest(weight: np.ndarray, importance: np.ndarray | None, encoding: Encoding, method: Method) -> BlockCodes:
    return search_ranges(weight, encoding, importance) if method.clip else quantize_blocks(weight, encoding)


def _check(weight: np.ndarray, moments: Moments | None) -> None:
    largest = float(np.abs(weight).max(initial=0))
    if not largest < _LARGEST_WEIGHT:
        raise InvalidModel(f"a weight of shape {weight.shape} must stay below {_LARGEST_WEIGHT:g}, found {largest:g}")
    if moments is not None and moments.hessian.shape != (weight.shape[1],) * 2:
        raise DatasetMismatch(
            f"a weight of shape {weight.shape} needs moments [{weight.shape[1]}, {weight.shape[1]}] of its inputs, "
            f"found {list(moments.hessian.shape)}"
        )
