"""GridSample: values of an image at places that another tensor tells."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import channels_last, image, part, plain
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, static

op = OPERATORS.op


@op("GridSample", since=20)
def grid_sample(
    x: Tensor,
    grid: Tensor | np.ndarray,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
    build: Build,
) -> Tensor:
    value = channels_last(x)
    sizes = static(value.shape[1:-1], "an image that is sampled")
    places = plain(build.tensor(grid))
    batch = static(places.shape[:1], "the batch of a grid")[0]
    coordinates = [
        _pixels(part(places, -1, len(sizes) - 1 - axis), size, bool(align_corners)) for axis, size in enumerate(sizes)
    ]
    if mode == "nearest":
        coordinates = [ops.round(place) for place in coordinates]
    if padding_mode != "zeros" and mode != "cubic":
        coordinates = [
            _inside(place, size, padding_mode, bool(align_corners))
            for place, size in zip(coordinates, sizes, strict=True)
        ]
    rows = ops.reshape(value, (-1, value.shape[-1]))

    def read(where: Sequence[Any]) -> Any:
        return _read(rows, where, sizes, batch, padding_mode, bool(align_corners))

    if mode == "nearest":
        return image(read(coordinates))
    taps, shares = (4, _cubic) if mode == "cubic" else (2, _linear)
    return image(_mixed(coordinates, taps, shares, read))


@op("GridSample", since=16)
def grid_sample_old(
    x: Tensor,
    grid: Tensor | np.ndarray,
    *,
    align_corners: int = 0,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    build: Build,
) -> Tensor:
    known = {"bilinear": "linear", "bicubic": "cubic"}
    return grid_sample(
        x, grid, align_corners=align_corners, mode=known.get(mode, mode), padding_mode=padding_mode, build=build
    )


def _pixels(place: Any, size: int, align_corners: bool) -> Any:
    """From [-1, 1] to places in the image."""
    if align_corners:
        return ops.multiply(plus(place, 1.0), (size - 1) / 2)
    return ops.multiply(ops.subtract(ops.multiply(plus(place, 1.0), float(size)), 1.0), 0.5)


def _inside(place: Any, size: int, padding_mode: str, align_corners: bool) -> Any:
    """Bring places outside the image back to its border, or mirror them there."""
    if padding_mode == "border":
        return ops.clip(place, 0.0, float(size - 1))
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    span = high - low
    if span == 0:
        return ops.zeros_like(place)
    turned = ops.mod(ops.subtract(place, low), 2 * span)
    mirrored = ops.subtract(span, ops.abs(ops.subtract(turned, span)))
    return ops.clip(plus(mirrored, low), 0.0, float(size - 1))


def _read(
    rows: Any, where: Sequence[Any], sizes: Sequence[int], batch: int, padding_mode: str, align_corners: bool
) -> Any:
    """Take whole places from the flattened image `[batch * spatial, channels]`; with zeros outside where asked."""
    if padding_mode != "zeros":
        where = [_inside(place, size, padding_mode, align_corners) for place, size in zip(where, sizes, strict=True)]
    shape = (batch, *(1,) * (len(where[0].shape) - 1))
    flat: Any = np.arange(batch).reshape(shape).astype("int32")
    inside: Any = np.ones(shape, bool)
    for place, size in zip(where, sizes, strict=True):
        kept = ops.logical_and(ops.greater_equal(place, 0), ops.less(place, size))
        inside = ops.logical_and(inside, kept)
        flat = plus(ops.multiply(flat, size), ops.cast(ops.round(ops.clip(place, 0.0, float(size - 1))), "int32"))
    taken = ops.take(rows, flat, axis=0)
    return ops.multiply(taken, ops.cast(ops.expand_dims(inside, -1), str(taken.dtype)))


def _mixed(
    coordinates: Sequence[Any], taps: int, shares: Callable[[Any], list[Any]], read: Callable[[Sequence[Any]], Any]
) -> Any:
    """Add up what lies around each place by its shares."""
    floors = [ops.floor(place) for place in coordinates]
    weights = [shares(ops.subtract(place, floor)) for place, floor in zip(coordinates, floors, strict=True)]
    total: Any = None
    for choice in itertools.product(range(taps), repeat=len(coordinates)):
        where = [plus(floor, float(tap - taps // 2 + 1)) for floor, tap in zip(floors, choice, strict=True)]
        share = weights[0][choice[0]]
        for axis in range(1, len(choice)):
            share = ops.multiply(share, weights[axis][choice[axis]])
        part = ops.multiply(read(where), ops.expand_dims(share, -1))
        total = part if total is None else plus(total, part)
    return total


def _linear(rest: Any) -> list[Any]:
    return [ops.subtract(1.0, rest), rest]


def _cubic(rest: Any, a: float = -0.75) -> list[Any]:
    """Shares of the two places on each side (Keys, 1981)."""

    def near(distance: Any) -> Any:
        inner = ops.subtract(ops.multiply(distance, a + 2), a + 3)
        return plus(ops.multiply(ops.multiply(inner, distance), distance), 1.0)

    def far(distance: Any) -> Any:
        inner = ops.multiply(plus(ops.multiply(ops.subtract(distance, 5.0), distance), 8.0), distance)
        return ops.multiply(ops.subtract(inner, 4.0), a)

    other = ops.subtract(1.0, rest)
    return [far(plus(rest, 1.0)), near(rest), near(other), far(plus(other, 1.0))]
