"""Functions of one number at a time: the order of axes stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import normal
from tightship.bridges.onnx_to_keras.operators.arithmetic import UNSIGNED
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.shapes import single
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported

op = OPERATORS.op


def unary(function: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    """Return an operator that applies a function of `keras.ops` and keeps the element type."""

    def apply(x: Tensor) -> Tensor:
        result = function(x.value)
        return Tensor(result if str(result.dtype) == x.dtype else ops.cast(result, x.dtype), x.axes)

    return apply


def floating(x: Tensor, function: Callable[[Any], Any]) -> Tensor:
    """Apply a function in float32 where TensorFlow has none in 16 bits, and come back."""
    narrow = x.dtype in ("float16", "bfloat16")
    result = function(ops.cast(x.value, "float32") if narrow else x.value)
    return Tensor(ops.cast(result, x.dtype) if narrow else result, x.axes)


def activation(name: str) -> Callable[..., Tensor]:
    """Return an operator that becomes an Activation layer."""

    def apply(x: Tensor, *, build: Build) -> Tensor:
        return Tensor(build.layer(layers.Activation, x.value, activation=name), x.axes)

    return apply


def _widened(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def compute(x: Any) -> Any:
        return function(ops.cast(x, UNSIGNED[str(x.dtype)])) if str(x.dtype) in UNSIGNED else function(x)

    return compute


def _sign(x: Any) -> Any:
    if str(x.dtype).startswith("uint"):
        return ops.cast(ops.not_equal(x, 0), str(x.dtype))
    return _widened(ops.sign)(x)


def _abs(x: Any) -> Any:
    return x if str(x.dtype).startswith("uint") else _widened(ops.abs)(x)


OPERATORS.rows(
    ("Abs", 6, unary(_abs)),
    ("Neg", 6, unary(_widened(ops.negative))),
    ("Sign", 9, unary(_sign)),
    ("Ceil", 6, unary(ops.ceil)),
    ("Floor", 6, unary(ops.floor)),
    ("Round", 11, unary(ops.round)),
    ("Sqrt", 6, unary(ops.sqrt)),
    ("Exp", 6, unary(ops.exp)),
    ("Log", 6, unary(ops.log)),
    ("Reciprocal", 6, unary(ops.reciprocal)),
    ("Erf", 9, unary(ops.erf)),
    ("Sin", 7, unary(ops.sin)),
    ("Cos", 7, unary(ops.cos)),
    ("Tan", 7, unary(ops.tan)),
    ("Asin", 7, unary(ops.arcsin)),
    ("Acos", 7, unary(ops.arccos)),
    ("Atan", 7, unary(ops.arctan)),
    ("Sinh", 9, unary(ops.sinh)),
    ("Cosh", 9, unary(ops.cosh)),
    ("Asinh", 9, unary(ops.arcsinh)),
    ("Acosh", 9, unary(ops.arccosh)),
    ("Atanh", 9, unary(ops.arctanh)),
    ("Not", 1, unary(ops.logical_not)),
    ("BitwiseNot", 18, unary(ops.bitwise_not)),
    ("Tanh", 6, activation("tanh")),
    ("Sigmoid", 6, activation("sigmoid")),
    ("Softplus", 1, activation("softplus")),
    ("Softsign", 1, activation("softsign")),
    ("HardSwish", 14, activation("hard_silu")),
    ("Mish", 18, activation("mish")),
)


@op("Relu", since=6)
def relu(x: Tensor, *, build: Build) -> Tensor:
    if x.dtype.startswith("int"):
        return Tensor(ops.maximum(x.value, np.zeros((), x.dtype)), x.axes)
    return Tensor(build.layer(layers.ReLU, x.value), x.axes)


@op("IsNaN", since=9)
def is_nan(x: Tensor) -> Tensor:
    return Tensor(ops.isnan(x.value), x.axes)


@op("IsInf", since=10)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    value = ops.cast(x.value, "float32") if x.dtype.startswith("float8") else x.value
    infinite = ops.isinf(value)
    if not detect_negative:
        infinite = ops.logical_and(infinite, ops.greater(value, 0))
    if not detect_positive:
        infinite = ops.logical_and(infinite, ops.less(value, 0))
    return Tensor(infinite, x.axes)


@op("LeakyRelu", since=6)
def leaky_relu(x: Tensor, *, alpha: float = 0.01, build: Build) -> Tensor:
    return Tensor(build.layer(layers.LeakyReLU, x.value, negative_slope=float(alpha)), x.axes)


@op("Elu", since=6)
def elu(x: Tensor, *, alpha: float = 1.0, build: Build) -> Tensor:
    return Tensor(build.layer(layers.ELU, x.value, alpha=float(alpha)), x.axes)


@op("Celu", since=12)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return Tensor(ops.celu(x.value, float(alpha)), x.axes)


@op("Selu", since=6)
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return Tensor(ops.multiply(ops.elu(x.value, float(alpha)), float(gamma)), x.axes)


@op("HardSigmoid", since=6)
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5, build: Build) -> Tensor:
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return Tensor(build.layer(layers.Activation, x.value, activation="hard_sigmoid"), x.axes)
    return Tensor(ops.clip(plus(ops.multiply(x.value, float(alpha)), float(beta)), 0.0, 1.0), x.axes)


@op("ThresholdedRelu", since=10)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return Tensor(ops.multiply(x.value, ops.cast(ops.greater(x.value, float(alpha)), x.dtype)), x.axes)


@op("Shrink", since=9)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    above = ops.multiply(ops.cast(ops.greater(x.value, lambd), "float32"), ops.cast(x.value, "float32") - bias)
    below = ops.multiply(ops.cast(ops.less(x.value, -lambd), "float32"), ops.cast(x.value, "float32") + bias)
    return Tensor(ops.cast(plus(above, below), x.dtype), x.axes)


@op("Gelu", since=20)
def gelu(x: Tensor, *, approximate: str = "none", build: Build) -> Tensor:
    if approximate == "tanh":
        return Tensor(ops.gelu(x.value, approximate=True), x.axes)
    return Tensor(ops.gelu(x.value, approximate=False), x.axes)


@op("Swish", since=24)
def swish(x: Tensor, *, alpha: float = 1.0, build: Build) -> Tensor:
    if alpha == 1.0:
        return Tensor(build.layer(layers.Activation, x.value, activation="silu"), x.axes)
    return Tensor(ops.multiply(x.value, ops.sigmoid(ops.multiply(x.value, float(alpha)))), x.axes)


@op("Clip", since=11)
def clip(x: Tensor, low: Any = None, high: Any = None, *, build: Build) -> Tensor:
    if low is None and high is None:
        return x
    if all(bound is None or isinstance(bound, np.ndarray) for bound in (low, high)):
        least, most = (None if bound is None else single(bound, "a bound") for bound in (low, high))
        return _clipped(x, least, most, build)
    value = x.value
    for bound, function in ((low, ops.maximum), (high, ops.minimum)):
        if bound is not None:
            value = function(value, bound.value if isinstance(bound, Tensor) else bound)
    return Tensor(value, x.axes)


@op("Clip", since=6)
def clip_attributes(
    x: Tensor, *, min: float = -3.4028234663852886e38, max: float = 3.4028234663852886e38, build: Build
) -> Tensor:
    return _clipped(x, min, max, build)


def _clipped(x: Tensor, low: float | None, high: float | None, build: Build) -> Tensor:
    if low == 0 and high == 6 and x.dtype.startswith("float"):
        return Tensor(build.layer(layers.ReLU, x.value, max_value=6.0), x.axes)
    value = x.value
    if low is not None:
        value = ops.maximum(value, np.full((1,) * min(x.rank, 1), low, x.dtype))
    if high is not None:
        value = ops.minimum(value, np.full((1,) * min(x.rank, 1), high, x.dtype))
    return Tensor(value, x.axes)


@op("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1, build: Build) -> Tensor:
    return _along(x, axis, build, "softmax")


@op("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1, build: Build) -> Tensor:
    return _along(x, axis, build, "log_softmax")


def _along(x: Tensor, axis: int, build: Build, name: str) -> Tensor:
    place = x.axes[normal(axis, x.rank)]
    if x.dtype not in ("float32", "float64"):
        function = ops.softmax if name == "softmax" else ops.log_softmax
        return floating(x, lambda value: function(value, axis=place))
    if place == x.rank - 1 and x.rank > 1:
        return Tensor(build.layer(layers.Activation, x.value, activation=name), x.axes)
    function = ops.softmax if name == "softmax" else ops.log_softmax
    return Tensor(function(x.value, axis=place), x.axes)


@op("Softmax", since=1)
def softmax_flat(x: Tensor, *, axis: int = 1, build: Build) -> Tensor:
    return _flat(x, axis, build, "softmax")


@op("LogSoftmax", since=1)
def log_softmax_flat(x: Tensor, *, axis: int = 1, build: Build) -> Tensor:
    return _flat(x, axis, build, "log_softmax")


def _flat(x: Tensor, axis: int, build: Build, name: str) -> Tensor:
    """Before opset 13 all axes from `axis` on count as one."""
    start = normal(axis, x.rank)
    if start == x.rank - 1 or all(length == 1 for length in x.shape[start + 1 :]):
        return _along(x, start, build, name)
    places = tuple(x.axes[start:])
    shifted = ops.subtract(x.value, ops.max(x.value, axis=places, keepdims=True))
    total = ops.sum(ops.exp(shifted), axis=places, keepdims=True)
    value = ops.divide(ops.exp(shifted), total) if name == "softmax" else ops.subtract(shifted, ops.log(total))
    return Tensor(value, x.axes)


@op("Hardmax", since=1)
def hardmax_flat(x: Tensor, *, axis: int = 1) -> Tensor:
    if normal(axis, x.rank) != x.rank - 1:
        raise Unsupported("over several axes at once, as before opset 13")
    return hardmax(x, axis=axis)


@op("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    place = x.axes[normal(axis, x.rank)]
    length = x.value.shape[place]
    if length is None:
        raise Unsupported("its axis is free; fix the input shapes")
    last = place == x.rank - 1
    return Tensor(
        ops.one_hot(ops.argmax(x.value, axis=place), length, axis=-1 if last else place, dtype=x.dtype), x.axes
    )


@op("PRelu", since=7)
def prelu(x: Tensor, slope: Tensor | np.ndarray, *, build: Build) -> Tensor:
    (value, factor), axes = build.aligned(x, slope)
    if isinstance(slope, np.ndarray) and x.dtype == "float32" and x.rank > 1:
        trained = _prelu_weights(x, slope)
        if trained is not None:
            weights, shared = trained
            return Tensor(build.layer(layers.PReLU, x.value, [weights], shared_axes=shared), x.axes)
    zero = np.zeros((1,) * min(x.rank, 1), x.dtype)
    negative = ops.multiply(ops.minimum(value, zero), factor)
    return Tensor(plus(ops.maximum(value, zero), negative), axes)


def _prelu_weights(x: Tensor, slope: np.ndarray) -> tuple[np.ndarray, list[int]] | None:
    """Weights and shared axes of a PReLU layer, which has a slope per place of an item."""
    full = slope.reshape((1,) * (x.rank - slope.ndim) + slope.shape)
    full = full.transpose([x.axes.index(place) for place in range(x.rank)])
    if full.shape[0] != 1 or any(
        mine not in (1, length) for mine, length in zip(full.shape, x.value.shape, strict=True)
    ):
        return None
    return full[0], [place for place in range(1, x.rank) if full.shape[place] == 1]
