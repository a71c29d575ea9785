"""Quantized numbers: rounding to a grid and back, and products of integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops, quantizers

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import arrange, channels_last, image, like, normal, plain
from tightship.bridges.onnx_to_keras.operators.casting import converted, keras_type
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.operators.windows import window
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Rounding, Tensor, Unsupported, dtype_of, static

op = OPERATORS.op

Operand = Tensor | np.ndarray


def _along(value: Operand, x: Tensor, axis: int, block: int, build: Build) -> Any:
    """A scale or zero point in the shape that broadcasts against `x` as it lies."""
    if not value.shape or value.shape == (1,):
        return value.reshape((1,) * min(x.rank, 1)) if isinstance(value, np.ndarray) else plain(value)
    place = normal(axis, x.rank)
    array = plain(value) if isinstance(value, Tensor) else value
    if len(value.shape) > 1:
        repeated = np.repeat if isinstance(array, np.ndarray) else ops.repeat
        whole = repeated(array, block, axis=place)
        length = static(x.shape, "a tensor quantized in blocks")[place]
        whole = whole[tuple(slice(0, length) if other == place else slice(None) for other in range(x.rank))]
        return whole.transpose(np.argsort(x.axes)) if isinstance(whole, np.ndarray) else arrange(like(whole), x.axes)
    shape = tuple(-1 if other == x.axes[place] else 1 for other in range(x.rank))
    return array.reshape(shape) if isinstance(array, np.ndarray) else ops.reshape(array, shape)


def _cast(value: Any, dtype: str) -> Any:
    return value.astype(dtype) if isinstance(value, np.ndarray) else ops.cast(value, dtype)


@op("QuantizeLinear", since=10)
def quantize_linear(
    x: Operand,
    scale: Operand,
    zero_point: Operand | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    build: Build,
) -> Tensor:
    tensor = build.tensor(x)
    dtype = keras_type(output_dtype) if output_dtype else "uint8"
    dtype = dtype if zero_point is None else dtype_of(zero_point)
    step = _along(scale, tensor, axis, block_size, build)
    ratio = ops.divide(ops.cast(tensor.value, "float32"), _cast(step, "float32"))
    if dtype.startswith("float8"):
        return converted(Tensor(ratio, tensor.axes), dtype, bool(saturate))
    codes = _rounded(ratio, zero_point, tensor, axis, block_size, dtype, build)
    return Tensor(codes, tensor.axes, rounded_from=_rounding(tensor, scale, zero_point, dtype))


def _rounding(x: Tensor, scale: Operand, zero_point: Operand | None, dtype: str) -> Rounding | None:
    """What 8-bit codes with one constant scale are codes of; None for all others."""
    zero = np.zeros(1) if zero_point is None else zero_point
    if dtype not in ("int8", "uint8") or x.dtype != "float32":
        return None
    if isinstance(scale, Tensor) or isinstance(zero, Tensor) or scale.size != 1 or zero.size != 1:
        return None
    limits = np.iinfo(dtype)
    return Rounding(x, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), limits.min, limits.max)


def _rounded(ratio: Any, zero_point: Operand | None, x: Tensor, axis: int, block: int, dtype: str, build: Build) -> Any:
    if not dtype.startswith(("int", "uint")):
        raise Unsupported(f"Keras has no element type {dtype}")
    value = ops.round(ratio)
    if zero_point is not None:
        value = plus(value, _cast(_along(zero_point, x, axis, block, build), "float32"))
    limits = np.iinfo(dtype)
    return ops.cast(ops.clip(value, float(limits.min), float(limits.max)), dtype)


@op("DequantizeLinear", since=10)
def dequantize_linear(
    x: Operand,
    scale: Operand,
    zero_point: Operand | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    build: Build,
) -> Operand:
    dtype = keras_type(output_dtype) if output_dtype else dtype_of(scale)
    if isinstance(x, np.ndarray) and isinstance(scale, np.ndarray) and not isinstance(zero_point, Tensor):
        return _widened(x, scale, zero_point, axis, block_size).astype(dtype)
    tensor = build.tensor(x)
    if (found := tensor.rounded_from) is not None and found == _rounding(found.tensor, scale, zero_point, tensor.dtype):
        return _fake_quantized(found)
    value = ops.cast(tensor.value, "float32")
    if zero_point is not None:
        value = ops.subtract(value, _cast(_along(zero_point, tensor, axis, block_size, build), "float32"))
    step = _cast(_along(scale, tensor, axis, block_size, build), "float32")
    return Tensor(ops.cast(ops.multiply(value, step), dtype), tensor.axes)


def _widened(codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, axis: int, block: int) -> np.ndarray:
    """Weights kept as codes, as the numbers that they stand for: a layer's own, which it can train."""
    centred = codes.astype(np.float32)
    place = normal(axis, codes.ndim)

    def along(value: np.ndarray) -> np.ndarray:
        if value.size == 1:
            return value.reshape(())
        if block:
            return np.repeat(value, block, axis=place).take(range(codes.shape[place]), axis=place)
        return value.reshape(tuple(-1 if other == place else 1 for other in range(codes.ndim)))

    if zero_point is not None:
        centred -= along(zero_point).astype(np.float32)
    return centred * along(scale).astype(np.float32)


def _fake_quantized(found: Rounding) -> Tensor:
    """A pair that rounds and widens again, as the one operation that quantization-aware training has for it.

    Its gradient passes through, and TensorFlow's converter to TFLite makes integer operators of what lies between two.
    """
    low, high = ((limit - found.zero_point) * found.scale for limit in (found.low, found.high))
    value = quantizers.fake_quant_with_min_max_vars(found.tensor.value, low, high)
    return Tensor(value, found.tensor.axes)


@op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low = ops.minimum(ops.min(x.value), 0.0)
    high = ops.maximum(ops.max(x.value), 0.0)
    scale = ops.divide(ops.subtract(high, low), 255.0)
    zero = ops.clip(ops.round(ops.divide(ops.negative(low), scale)), 0.0, 255.0)
    value = ops.clip(plus(ops.round(ops.divide(x.value, scale)), zero), 0.0, 255.0)
    return Tensor(ops.cast(value, "uint8"), x.axes), like(scale), like(ops.cast(zero, "uint8"))


def _centered(x: Operand, zero_point: Operand | None, axis: int, build: Build) -> Tensor:
    """Integers minus their zero point, as int32."""
    tensor = build.tensor(x)
    value = ops.cast(tensor.value, "int32")
    if zero_point is not None:
        value = ops.subtract(value, _cast(_along(zero_point, tensor, axis, 0, build), "int32"))
    return Tensor(value, tensor.axes)


@op("MatMulInteger", since=10)
def matmul_integer(
    a: Operand, b: Operand, a_zero_point: Operand | None = None, b_zero_point: Operand | None = None, *, build: Build
) -> Tensor:
    left, right = _centered(a, a_zero_point, -2, build), _centered(b, b_zero_point, -1, build)
    return like(ops.matmul(plain(left), plain(right)))


@op("QLinearMatMul", since=10)
def qlinear_matmul(
    a: Operand,
    a_scale: Operand,
    a_zero_point: Operand,
    b: Operand,
    b_scale: Operand,
    b_zero_point: Operand,
    y_scale: Operand,
    y_zero_point: Operand,
    *,
    build: Build,
) -> Tensor:
    total = matmul_integer(a, b, a_zero_point, b_zero_point, build=build)
    scales = (_along(scale, total, axis, 0, build) for scale, axis in ((a_scale, -2), (b_scale, -1), (y_scale, -1)))
    left, right, out = (_cast(scale, "float32") for scale in scales)
    ratio = ops.divide(ops.multiply(ops.multiply(ops.cast(total.value, "float32"), left), right), out)
    dtype = dtype_of(y_zero_point)
    return Tensor(_rounded(ratio, y_zero_point, total, -1, 0, dtype, build), total.axes)


@op("ConvInteger", since=10)
def conv_integer(
    x: Operand,
    w: Operand,
    x_zero_point: Operand | None = None,
    w_zero_point: Operand | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
    build: Build,
) -> Tensor:
    """Products in float64, which holds the sums of any kernel exactly."""
    image_values = _centered(x, x_zero_point, 1, build)
    kernel_values = plain(_centered(w, w_zero_point, 0, build))
    kernel = [int(length) for length in w.shape[2:] if length is not None]
    found = window(image_values, kernel, strides, dilations, pads, auto_pad)
    padded = channels_last(found.pad(image_values))
    weights = ops.transpose(kernel_values, (*range(2, len(w.shape)), 1, 0))
    result = ops.conv(
        ops.cast(padded, "float64"),
        ops.cast(weights, "float64"),
        found.strides,
        "valid",
        data_format="channels_last",
        dilation_rate=found.dilations,
    )
    return image(ops.cast(ops.round(result), "int32"))


@op("QLinearConv", since=10)
def qlinear_conv(
    x: Operand,
    x_scale: Operand,
    x_zero_point: Operand,
    w: Operand,
    w_scale: Operand,
    w_zero_point: Operand,
    y_scale: Operand,
    y_zero_point: Operand,
    b: Operand | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
    build: Build,
) -> Tensor:
    total = conv_integer(
        x, w, x_zero_point, w_zero_point, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads,
        strides=strides, build=build,
    )  # fmt: skip
    value = total.value if b is None else plus(total.value, build.straight(b)[0])
    scales = (_along(scale, total, axis, 0, build) for scale, axis in ((x_scale, 1), (w_scale, 1), (y_scale, 1)))
    left, right, out = (_cast(scale, "float32") for scale in scales)
    ratio = ops.divide(ops.multiply(ops.cast(value, "float32"), ops.multiply(left, right)), out)
    return Tensor(_rounded(ratio, y_zero_point, total, 1, 0, dtype_of(y_zero_point), build), total.axes)
