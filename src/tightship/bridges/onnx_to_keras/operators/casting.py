"""Element types changed, by value or by bits."""

from __future__ import annotations

import numpy as np
from keras import ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.shapes import Lengths, as_tensor
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import LACKING, Numbers, Tensor, Unsupported, dtype_of

op = OPERATORS.op

Operand = Tensor | np.ndarray


@op("Cast", since=6)
def cast(x: Lengths, *, to: int, saturate: int = 1, round_mode: str = "up", build: Build) -> Tensor:
    tensor = build.tensor(as_tensor(x, build) if isinstance(x, Numbers) else x)
    return converted(tensor, keras_type(to), bool(saturate))


@op("CastLike", since=15)
def cast_like(x: Operand, like: Operand, *, saturate: int = 1, round_mode: str = "up", build: Build) -> Tensor:
    return converted(build.tensor(x), dtype_of(like), bool(saturate))


def keras_type(code: int) -> str:
    """Return the name of an ONNX element type. Raises `Unsupported` where Keras has none."""
    import onnx_ir

    dtype = onnx_ir.DataType(code)
    if dtype.name in LACKING:
        raise Unsupported(f"Keras has no element type {dtype.name.lower()}")
    return str(dtype.numpy())


def converted(x: Tensor, dtype: str, saturate: bool = True) -> Tensor:
    """Change the element type."""
    if x.dtype == dtype:
        return x
    if dtype == "bool":
        return Tensor(ops.not_equal(x.value, np.zeros((), x.dtype)), x.axes)
    if dtype.startswith("float8") and saturate:
        largest = 448.0 if "e4m3" in dtype else 57344.0
        wide = ops.cast(x.value, "float32")
        # clip would keep NaN as it is only on some backends
        return Tensor(ops.cast(ops.where(ops.isnan(wide), wide, ops.clip(wide, -largest, largest)), dtype), x.axes)
    return Tensor(ops.cast(x.value, dtype), x.axes)


@op("BitCast", since=26)
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    if x.dtype == "bool":
        return Tensor(ops.cast(x.value, keras_type(to)), x.axes)
    return Tensor(ops.view(x.value, dtype=keras_type(to)), x.axes)
