"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand
from tightship.formats.mil.table import OPERATORS

_FLOAT = {"ReduceLogSum", "ReduceLogSumExp", "ReduceL2", "ReduceMean"}
"""Whose result on integers is computed in floating point and cut."""


def _reduction(kind: str) -> Callable[..., Any]:
    def function(x: Operand, *, axes: Any = None, keep_dims: bool = False, build: Build) -> Any:
        where = None if axes is None else np.atleast_1d(np.asarray(axes, np.int64))
        if not x.is_float and kind in _FLOAT:
            wide = build(kind, build.cast(x, "float32"), where, keepdims=int(keep_dims))
            return build.cast(wide, str(x.type.carrier))
        return build(kind, x, where, keepdims=int(keep_dims))

    return function


def _argument(kind: str) -> Callable[..., Any]:
    def function(
        x: Operand, *, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32", build: Build
    ) -> Any:
        return build.cast(build(kind, x, axis=axis, keepdims=int(keep_dims)), output_dtype)

    return function


OPERATORS.rows(
    ("reduce_argmax", 15, _argument("ArgMax")),
    ("reduce_argmin", 15, _argument("ArgMin")),
    ("reduce_l1_norm", 15, _reduction("ReduceL1")),
    ("reduce_l2_norm", 15, _reduction("ReduceL2")),
    ("reduce_log_sum", 15, _reduction("ReduceLogSum")),
    ("reduce_log_sum_exp", 15, _reduction("ReduceLogSumExp")),
    ("reduce_max", 15, _reduction("ReduceMax")),
    ("reduce_mean", 15, _reduction("ReduceMean")),
    ("reduce_min", 15, _reduction("ReduceMin")),
    ("reduce_prod", 15, _reduction("ReduceProd")),
    ("reduce_sum", 15, _reduction("ReduceSum")),
    ("reduce_sum_square", 15, _reduction("ReduceSumSquare")),
)
