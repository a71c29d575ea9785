"""Linear quantization of activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op


def _scale(scale: Any) -> np.ndarray:
    return np.asarray(scale, np.float32)


@op("quantize", since=17)
def quantize(
    input: Operand, *, scale: Any, output_dtype: str, zero_point: Any = None, axis: int | None = None, build: Build
) -> Any:
    """clip(round(x / scale) + zero_point), one of each or one per index of the axis."""
    point = np.zeros(_scale(scale).shape) if zero_point is None else np.asarray(zero_point)
    return build("QuantizeLinear", input, _scale(scale), point.astype(output_dtype), axis=axis)


@op("dequantize", since=17)
def dequantize(input: Operand, *, scale: Any, zero_point: Any = None, axis: int | None = None, build: Build) -> Any:
    point = None if zero_point is None else np.asarray(zero_point).astype(input.type.carrier)
    return build("DequantizeLinear", input, _scale(scale), point, axis=axis)
