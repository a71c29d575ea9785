"""One weight, rounded by the method asked for: where clip search, error feedback and refit come together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tightship.errors import DatasetMismatch
from tightship.rounding.blocks import BlockCodes, quantize_blocks
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import BITS, Encoding
from tightship.rounding.gptq import gptq
from tightship.rounding.second_moment import Moments

__all__ = ["PRESETS", "Method", "round_weight"]


@dataclass(frozen=True)
class Method:
    """How a weight is rounded; all but `clip` needs the moments of its inputs.

    `clip`: search the range of each block. `error_feedback`: each column makes up for the errors of others (GPTQ),
    those of large activations first with `activation_order`. `asymmetric_calibration`: aim at the output of the
    original model rather than at that of the same weight on drifted inputs (GPTAQ). `refit`: closed-form scales
    afterwards. `damping`: added to the squared activations, as a fraction of their mean.
    """

    clip: bool = True
    error_feedback: bool = True
    activation_order: bool = True
    asymmetric_calibration: bool = True
    refit: bool = False
    damping: float = 0.01


_FAST = Method(error_feedback=False)
_FEEDBACK = Method()

PRESETS: dict[str, dict[int, Method]] = {
    "fast": dict.fromkeys(BITS, _FAST),
    "balanced": dict.fromkeys(BITS, _FEEDBACK),
    "best": dict.fromkeys(BITS, _FEEDBACK),
}
"""Methods by preset and bits. `fast` needs no data."""


def round_weight(weight: np.ndarray, moments: Moments | None, encoding: Encoding, method: Method) -> BlockCodes:
    """Round `weight` `[N, K]` as `method` says; without `moments` of its inputs only the clip search is left.

    Raises `DatasetMismatch` where the moments are not those of K inputs, `DatasetError` where they cannot be used.
    """
    if moments is not None and moments.hessian.shape != (weight.shape[1],) * 2:
        raise DatasetMismatch(
            f"a weight of shape {weight.shape} needs moments [{weight.shape[1]}, {weight.shape[1]}] of its inputs, "
            f"found {list(moments.hessian.shape)}"
        )
    importance = None if moments is None else np.diagonal(moments.hessian)
    ranges = search_ranges(weight, encoding, importance) if method.clip else quantize_blocks(weight, encoding)
    if moments is None or not method.error_feedback:
        return ranges
    if not method.asymmetric_calibration:
        moments = replace(moments, cross=None)
    return gptq(
        weight, moments, encoding, activation_order=method.activation_order, damping=method.damping, ranges=ranges
    )
