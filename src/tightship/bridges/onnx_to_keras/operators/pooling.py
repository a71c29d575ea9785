"""Pools: layers where the window is one that Keras has, else the window taken apart into shifted slices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import channels_last, image, like, plain
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.operators.windows import Window, counts, window
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported, static

op = OPERATORS.op

MAXIMUM = {1: layers.MaxPooling1D, 2: layers.MaxPooling2D, 3: layers.MaxPooling3D}
AVERAGE = {1: layers.AveragePooling1D, 2: layers.AveragePooling2D, 3: layers.AveragePooling3D}


@op("MaxPool")
def max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
    build: Build,
) -> Tensor | tuple[Tensor, Tensor]:
    found = _rounded_up(x, window(x, kernel_shape, strides, dilations, pads, auto_pad), ceil_mode)
    if build.wants(1):
        return _with_places(x, found, storage_order)
    if any(step > 1 for step in found.dilations) or x.dtype != "float32" or len(kernel_shape) > 2:
        tensor = found.pad(x, _lowest(x.dtype))
        return image(reduce(ops.maximum, _shifts(channels_last(tensor), _lengths(tensor, found), found)))
    return image(_pool_layer(MAXIMUM, x, found, build, _lowest(x.dtype)))


def _pool_layer(kinds: dict[int, Any], x: Tensor, found: Window, build: Build, fill: float = 0) -> Any:
    same = found.is_same(x.shape[2:])
    value = channels_last(x if same else found.pad(x, fill))
    return build.layer(
        kinds[len(found.kernel)],
        value,
        pool_size=found.kernel,
        strides=found.strides,
        padding="same" if same else "valid",
        data_format="channels_last",
    )


def _lowest(dtype: str) -> float:
    return int(np.iinfo(dtype).min) if dtype.startswith(("int", "uint")) else -np.inf


def _rounded_up(x: Tensor, found: Window, ceil_mode: int) -> Window:
    """Pad more at the end, so that windows that begin inside the image count; none begins in the padding after it."""
    if not ceil_mode:
        return found
    lengths = static(x.shape[2:], "an image that is pooled with ceil_mode")
    pads = []
    for axis, length in enumerate(lengths):
        low, high = found.pads[axis]
        stride, extent = found.strides[axis], found.extent[axis]
        count = -(-(length + low + high - extent) // stride) + 1
        if (count - 1) * stride >= length + low:
            count -= 1
        pads.append((low, max((count - 1) * stride + extent - length - low, high)))
    return replace(found, pads=tuple(pads))


def _lengths(x: Tensor, found: Window) -> list[int | None]:
    """Numbers of windows along each axis of a padded image."""
    return [
        None if length is None else (length - extent) // stride + 1
        for length, extent, stride in zip(x.shape[2:], found.extent, found.strides, strict=True)
    ]


def _shifts(value: Any, lengths: list[int | None], found: Window) -> Iterator[Any]:
    """Yield, for each place in the window, what lies there for all windows; channels-last, already padded."""
    for places in itertools.product(*(range(size) for size in found.kernel)):
        key: list[Any] = [slice(None)]
        for axis, place in enumerate(places):
            start = place * found.dilations[axis]
            count, stride = lengths[axis], found.strides[axis]
            beyond = start - (found.extent[axis] - 1)
            stop = (beyond or None) if count is None else start + (count - 1) * stride + 1
            key.append(slice(start, stop, stride))
        yield value[tuple(key)]


def _with_places(x: Tensor, found: Window, storage_order: int) -> tuple[Tensor, Tensor]:
    """Maxima and where in the whole tensor they lie, as numbers of a flattened `[N, C, spatial...]`."""
    shape = static(x.shape, "a tensor whose maxima are numbered")
    numbers = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    if storage_order:
        grid = np.arange(np.prod(shape[2:]), dtype=np.int64).reshape(shape[2:][::-1]).T
        numbers = numbers - numbers.reshape(*shape[:2], -1)[:, :, :1].reshape(*shape[:2], *(1,) * (len(shape) - 2))
        numbers = np.arange(shape[0] * shape[1]).reshape(*shape[:2], *(1,) * (len(shape) - 2)) * grid.size + grid
        numbers = numbers.astype(np.int64)
    where = np.pad(numbers, [(0, 0), (0, 0), *found.pads]).transpose(0, *range(2, len(shape)), 1)
    tensor = found.pad(x, _lowest(x.dtype))
    lengths = _lengths(tensor, found)
    stacked = ops.stack(list(_shifts(channels_last(tensor), lengths, found)), axis=-1)
    best = ops.expand_dims(ops.argmax(stacked, axis=-1), -1)
    places = np.stack(list(_shifts(where, lengths, found)), axis=-1)
    chosen = ops.sum(ops.multiply(ops.cast(ops.equal(best, np.arange(places.shape[-1])), "int64"), places), axis=-1)
    return image(ops.max(stacked, axis=-1)), image(ops.cast(chosen, "int64"))


def _whole_mean(x: Tensor) -> Tensor:
    """The mean over whole images, which TFLite rounds to a scale of its own, where a pool keeps that of its input."""
    return image(ops.mean(channels_last(x), axis=tuple(range(1, x.rank - 1)), keepdims=True))


@op("AveragePool")
def average_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
    build: Build,
) -> Tensor:
    given = window(x, kernel_shape, strides, dilations, pads, auto_pad)
    found = _rounded_up(x, given, ceil_mode)
    simple = all(step == 1 for step in found.dilations) and x.dtype == "float32" and len(kernel_shape) in AVERAGE
    if simple and not found.padded and tuple(x.shape[2:]) == tuple(found.kernel):
        return _whole_mean(x)
    if simple and not found.padded:
        return image(_pool_layer(AVERAGE, x, found, build))
    if simple and not count_include_pad and found.is_same(x.shape[2:]):
        return image(_pool_layer(AVERAGE, x, found, build))
    if simple and count_include_pad and found == given:
        tensor = found.pad(x)
        return image(_pool_layer(AVERAGE, tensor, replace(found, pads=((0, 0),) * len(kernel_shape)), build))
    tensor = found.pad(x)
    total = reduce(plus, _shifts(channels_last(tensor), _lengths(tensor, found), found))
    return image(ops.divide(total, _divisor(x, given, found, count_include_pad)))


def _divisor(x: Tensor, given: Window, found: Window, count_include_pad: int) -> np.ndarray:
    lengths = static(x.shape[2:], "an image whose padding is left out of the average")
    if count_include_pad:  # what ceil_mode added counts never
        lengths = tuple(length + low + high for length, (low, high) in zip(lengths, given.pads, strict=True))
        more = [
            (0, after - high - (before - low))
            for (low, high), (before, after) in zip(given.pads, found.pads, strict=True)
        ]
        found = replace(found, pads=tuple(more))
    divisor: np.ndarray = np.maximum(counts(lengths, found), 1)[..., None].astype(x.dtype)
    return divisor


@op("LpPool", since=2)
def lp_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    p: int = 2,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    found = _rounded_up(x, window(x, kernel_shape, strides, dilations, pads, auto_pad), ceil_mode)
    tensor = found.pad(x)
    powers = ops.power(ops.abs(channels_last(tensor)), float(p))
    return image(ops.power(reduce(plus, _shifts(powers, _lengths(tensor, found), found)), 1.0 / p))


def _globally(function: Any) -> Any:
    def apply(x: Tensor) -> Tensor:
        places = tuple(x.axes[2:])
        return Tensor(function(x.value, axis=places, keepdims=True), x.axes)

    return apply


OPERATORS.rows(("GlobalAveragePool", 1, _globally(ops.mean)), ("GlobalMaxPool", 1, _globally(ops.max)))


@op("GlobalLpPool", since=2)
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    total = ops.sum(ops.power(ops.abs(x.value), float(p)), axis=tuple(x.axes[2:]), keepdims=True)
    return Tensor(ops.power(total, 1.0 / p), x.axes)


@op("MaxUnpool", since=9)
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: np.ndarray | None = None,
    *,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    shape = static(x.shape, "a tensor that is unpooled")
    found = window(x, kernel_shape, strides, None, pads, "NOTSET")
    inner = [
        (length - 1) * stride + size - low - high
        for length, stride, size, (low, high) in zip(shape[2:], found.strides, found.kernel, found.pads, strict=True)
    ]
    # The indices count in the tensor before the wanted output shape pads it at the end.
    full = (*shape[:2], *inner)
    flat = ops.scatter(ops.reshape(plain(indices), (-1, 1)), ops.reshape(plain(x), (-1,)), (int(np.prod(full)),))
    result = ops.reshape(flat, full)
    if output_shape is None:
        return like(result)
    if not isinstance(output_shape, np.ndarray):
        raise Unsupported("its output shape is computed from data")
    return like(ops.pad(result, [(0, int(wide) - have) for wide, have in zip(output_shape, full, strict=True)]))
