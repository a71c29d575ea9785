"""Fourier transforms, by constant matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import like, normal, part, plain
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.shapes import integers
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported

op = OPERATORS.op


@op("DFT", since=20)
def dft(
    x: Tensor, dft_length: Any = None, axis: Any = None, *, inverse: int = 0, onesided: int = 0, build: Build
) -> Tensor:
    where = -2 if axis is None else integers(axis, "its axis")[0]
    return _transformed(x, dft_length, where, bool(inverse), bool(onesided), build)


@op("DFT", since=17)
def dft_attribute(
    x: Tensor, dft_length: Any = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0, build: Build
) -> Tensor:
    return _transformed(x, dft_length, axis, bool(inverse), bool(onesided), build)


def _transformed(x: Tensor, dft_length: Any, axis: int, inverse: bool, onesided: bool, build: Build) -> Tensor:
    """Discrete Fourier transform as products with constant matrices of cosines and sines."""
    place = normal(axis, x.rank)
    value = plain(x)
    own = value.shape[place]
    if own is None:
        raise Unsupported("along a free axis; fix the input shapes")
    whole = inverse and onesided  # the given half stands for a symmetric whole
    default = 2 * (own - 1) if whole else own
    length = default if dft_length is None else integers(dft_length, "its length")[0]
    used = min(own, length // 2 + 1 if whole else length)
    key = tuple(slice(0, used) if other == place else slice(None) for other in range(x.rank))
    moved = ops.moveaxis(value[key], place, -2)
    count = length // 2 + 1 if onesided and not inverse else length
    cosines, sines = _matrices(used, count, length, inverse, whole)
    real, imaginary = _product(moved, cosines, sines, x.dtype)
    parts = [real] if whole else [real, imaginary]
    return like(ops.moveaxis(ops.stack(parts, axis=-1), -2, place))


def _matrices(used: int, count: int, length: int, inverse: bool, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    angles = 2 * np.pi * np.outer(np.arange(used), np.arange(count)) / length
    scale = np.full((used, 1), 1 / length if inverse else 1.0)
    if whole:
        mirrored = (np.arange(used) > 0) & (2 * np.arange(used) < length)
        scale[mirrored] *= 2
    return np.cos(angles) * scale, np.sin(angles) * scale * (1 if inverse else -1)


def _product(x: Any, cosines: np.ndarray, sines: np.ndarray, dtype: str) -> tuple[Any, Any]:
    """Real and imaginary parts `[..., count]` of `x` `[..., used, 1 or 2]` times cosines + i sines."""
    cosines, sines = cosines.astype(dtype), sines.astype(dtype)
    real = part(x, -1, 0)
    if x.shape[-1] == 1:
        return ops.matmul(real, cosines), ops.matmul(real, sines)
    other = part(x, -1, 1)
    return (
        ops.subtract(ops.matmul(real, cosines), ops.matmul(other, sines)),
        plus(ops.matmul(real, sines), ops.matmul(other, cosines)),
    )


@op("STFT", since=17)
def stft(
    signal: Tensor, frame_step: Any, window: Any = None, frame_length: Any = None, *, onesided: int = 1, build: Build
) -> Tensor:
    step = integers(frame_step, "its step")[0]
    if frame_length is None and window is None:
        raise Unsupported("neither its window nor its length is given")
    size = integers(frame_length, "its length")[0] if frame_length is not None else int(window.shape[0])
    value = plain(signal)
    length = value.shape[1]
    if length is None:
        raise Unsupported("of a signal of free length; fix the input shapes")
    starts = np.arange(0, length - size + 1, step)
    frames = ops.take(value, (starts[:, None] + np.arange(size)).astype(np.int32), axis=1)
    if window is not None:
        shape = (1, 1, size, 1)
        weights = window.reshape(shape) if isinstance(window, np.ndarray) else ops.reshape(plain(window), shape)
        frames = ops.multiply(frames, weights)
    return _transformed(like(frames), None, 2, False, bool(onesided), build)
