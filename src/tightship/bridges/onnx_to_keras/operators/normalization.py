"""Normalizations, which become layers where their scales are constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import like, normal, plain
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported

op = OPERATORS.op

Operand = Tensor | np.ndarray


@op("BatchNormalization", since=14)
def batch_normalization(
    x: Tensor,
    scale: Operand,
    bias: Operand,
    mean: Operand,
    variance: Operand,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    build: Build,
) -> Any:
    if training_mode:
        return _trained(x, (scale, bias, mean, variance), epsilon, momentum, build)
    place = x.axes[min(1, x.rank - 1)]
    weights = (scale, bias, mean, variance)
    constants = [weight for weight in weights if isinstance(weight, np.ndarray) and weight.dtype == x.dtype]
    if len(constants) == len(weights):
        return Tensor(
            build.layer(
                layers.BatchNormalization,
                x.value,
                constants,
                axis=place,
                epsilon=float(epsilon),
                momentum=float(momentum),
            ),
            x.axes,
        )
    factor, addend, center, spread = (_spread(weight, x, place, build) for weight in weights)
    return Tensor(_normalized(x.value, center, spread, factor, addend, epsilon), x.axes)


def _spread(weight: Operand, x: Tensor, place: int, build: Build) -> Any:
    """A weight per channel with axes of length 1 around it."""
    shape = tuple(-1 if axis == place else 1 for axis in range(x.rank))
    if isinstance(weight, np.ndarray):
        return build.constant(weight.reshape(shape).astype(x.dtype))
    return ops.cast(ops.reshape(plain(weight), shape), x.dtype)


def _normalized(x: Any, mean: Any, variance: Any, factor: Any, addend: Any, epsilon: float) -> Any:
    deviation = ops.sqrt(plus(variance, float(epsilon)))
    return plus(ops.multiply(ops.divide(ops.subtract(x, mean), deviation), factor), addend)


def _trained(x: Tensor, weights: tuple[Operand, ...], epsilon: float, momentum: float, build: Build) -> Any:
    place = x.axes[min(1, x.rank - 1)]
    others = tuple(axis for axis in range(x.rank) if axis != place)
    mean = ops.mean(x.value, axis=others, keepdims=True)
    variance = ops.var(x.value, axis=others, keepdims=True)
    factor, addend, old_mean, old_variance = (_spread(weight, x, place, build) for weight in weights)
    result = Tensor(_normalized(x.value, mean, variance, factor, addend, epsilon), x.axes)
    running = [
        like(ops.reshape(plus(ops.multiply(old, float(momentum)), ops.multiply(new, 1.0 - momentum)), (-1,)))
        for old, new in ((old_mean, mean), (old_variance, variance))
    ]
    return (result, *running)


@op("BatchNormalization", since=7)
def batch_normalization_inference(
    x: Tensor,
    scale: Operand,
    bias: Operand,
    mean: Operand,
    variance: Operand,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    build: Build,
) -> Any:
    if not spatial:
        raise Unsupported("with statistics per place of the image (spatial = 0)")
    return batch_normalization(x, scale, bias, mean, variance, epsilon=epsilon, momentum=momentum, build=build)


@op("InstanceNormalization", since=6)
def instance_normalization(x: Tensor, scale: Operand, bias: Operand, *, epsilon: float = 1e-5, build: Build) -> Tensor:
    place = x.axes[1]
    channels = x.shape[1]
    if isinstance(scale, np.ndarray) and isinstance(bias, np.ndarray) and channels is not None:
        return Tensor(
            build.layer(
                layers.GroupNormalization, x.value, [scale, bias], groups=channels, axis=place, epsilon=float(epsilon)
            ),
            x.axes,
        )
    spatial = tuple(x.axes[2:])
    mean, variance = ops.mean(x.value, spatial, keepdims=True), ops.var(x.value, spatial, keepdims=True)
    factor, addend = (_spread(weight, x, place, build) for weight in (scale, bias))
    return Tensor(_normalized(x.value, mean, variance, factor, addend, epsilon), x.axes)


@op("GroupNormalization", since=21)
def group_normalization(
    x: Tensor,
    scale: Operand,
    bias: Operand,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: int = 1,
    build: Build,
) -> Tensor:
    place = x.axes[1]
    if isinstance(scale, np.ndarray) and isinstance(bias, np.ndarray) and x.shape[1] is not None:
        return Tensor(
            build.layer(
                layers.GroupNormalization, x.value, [scale, bias], groups=num_groups, axis=place, epsilon=float(epsilon)
            ),
            x.axes,
        )
    n, channels, *spatial = (-1 if length is None else length for length in x.shape)
    if channels == -1 or spatial.count(-1) + (n == -1) > 1:
        raise Unsupported("on an image of free size with computed scales; fix the input shapes")
    grouped = ops.reshape(plain(x), (n, num_groups, channels // num_groups, *spatial))
    inner = tuple(range(2, len(grouped.shape)))
    mean, variance = ops.mean(grouped, inner, keepdims=True), ops.var(grouped, inner, keepdims=True)
    unit = ops.divide(ops.subtract(grouped, mean), ops.sqrt(plus(variance, float(epsilon))))
    back = like(ops.reshape(unit, (n, channels, *spatial)))
    factor, addend = (_spread(weight, back, 1, build) for weight in (scale, bias))
    return like(plus(ops.multiply(back.value, factor), addend))


@op("LayerNormalization", since=17)
def layer_normalization(
    x: Tensor,
    scale: Operand,
    bias: Operand | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    build: Build,
) -> Any:
    first = normal(axis, x.rank)
    axes = tuple(range(first, x.rank))
    constant = isinstance(scale, np.ndarray) and (bias is None or isinstance(bias, np.ndarray))
    whole = constant and tuple(scale.shape) == x.shape[first:] and (bias is None or bias.shape == scale.shape)
    if whole and build.n_outputs == 1 and x.dtype == "float32":
        weights = [weight for weight in (scale, bias) if isinstance(weight, np.ndarray)]
        config: dict[str, Any] = {"axis": list(axes), "epsilon": float(epsilon), "center": bias is not None}
        return like(build.layer(layers.LayerNormalization, plain(x), weights, **config))
    value = ops.cast(plain(x), "float32") if stash_type == 1 else plain(x)
    mean = ops.mean(value, axes, keepdims=True)
    centered = ops.subtract(value, mean)
    variance = ops.mean(ops.square(centered), axes, keepdims=True)
    inverse = ops.reciprocal(ops.sqrt(plus(variance, float(epsilon))))
    unit = ops.cast(ops.multiply(centered, inverse), x.dtype)
    factor, *rest = build.straight(scale, *([] if bias is None else [bias]))
    result = ops.multiply(unit, factor)
    result = plus(result, rest[0]) if rest else result
    return (like(result), like(mean), like(inverse))[: build.n_outputs]


@op("RMSNormalization", since=23)
def rms_normalization(
    x: Tensor, scale: Operand, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, build: Build
) -> Tensor:
    first = normal(axis, x.rank)
    axes = tuple(range(first, x.rank))
    if isinstance(scale, np.ndarray) and scale.shape == x.shape[first:] and len(axes) == 1 and x.dtype == "float32":
        return like(build.layer(layers.RMSNormalization, plain(x), [scale], axis=-1, epsilon=float(epsilon)))
    value = ops.cast(plain(x), "float32") if stash_type == 1 else plain(x)
    power = ops.mean(ops.square(value), axes, keepdims=True)
    unit = ops.cast(ops.divide(value, ops.sqrt(plus(power, float(epsilon)))), x.dtype)
    return like(ops.multiply(unit, build.straight(scale)[0]))


@op("LpNormalization", since=1)
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    place = x.axes[normal(axis, x.rank)]
    if p == 1:
        norm = ops.sum(ops.abs(x.value), axis=place, keepdims=True)
    else:
        norm = ops.sqrt(ops.sum(ops.square(x.value), axis=place, keepdims=True))
    is_zero = ops.cast(ops.equal(norm, np.zeros((1,), x.dtype)), x.dtype)
    return Tensor(ops.divide(x.value, plus(norm, is_zero)), x.axes)


@op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    places = tuple(x.axes[normal(axis, x.rank)] for axis in axes)
    centered = ops.subtract(x.value, ops.mean(x.value, places, keepdims=True))
    deviation = ops.sqrt(ops.mean(ops.square(centered), places, keepdims=True))
    return Tensor(ops.divide(centered, plus(deviation, 1e-9)), x.axes)


@op("LRN", since=1)
def lrn(x: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Tensor:
    place, channels = x.axes[1], x.shape[1]
    if channels is None:
        raise Unsupported("with a free number of channels")
    low, high = (size - 1) // 2, size // 2
    widths = [(low, high) if axis == place else (0, 0) for axis in range(x.rank)]
    squares = ops.pad(ops.square(x.value), widths)

    def shifted(start: int) -> Any:
        return squares[
            tuple(slice(start, start + channels) if axis == place else slice(None) for axis in range(x.rank))
        ]

    total = shifted(0)
    for start in range(1, size):
        total = plus(total, shifted(start))
    scale = ops.power(plus(ops.multiply(total, alpha / size), float(bias)), float(beta))
    return Tensor(ops.divide(x.value, scale), x.axes)


@op("Dropout", since=12)
def dropout(x: Tensor, ratio: Any = None, training_mode: Any = None, *, seed: int | None = None, build: Build) -> Any:
    if training_mode is not None and not (isinstance(training_mode, np.ndarray) and not training_mode.item()):
        constant = isinstance(training_mode, np.ndarray) and isinstance(ratio, np.ndarray | None)
        if not (constant and (ratio is not None and float(ratio) == 0.0)):
            raise Unsupported("in training mode; convert the model in inference mode")
    mask = like(ops.ones_like(plain(x), dtype="bool")) if build.wants(1) else None
    return (x, mask)[: build.n_outputs] if mask is not None else x


@op("Dropout", since=1)
def dropout_attribute(x: Tensor, *, ratio: float = 0.5, is_test: int = 0, build: Build) -> Any:
    return dropout(x, build=build)
