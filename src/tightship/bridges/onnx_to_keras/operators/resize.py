"""Resize: per axis a constant recipe of which places to take and how much of each, as the specification tells it.

Where Keras' UpSampling layers do the same they are used: they take images of free size, and read better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import channels_last, image, normal
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.shapes import Lengths
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported

op = OPERATORS.op


@dataclass(frozen=True)
class Grid:
    """How places of the result lie on the source: the attributes of Resize."""

    coordinates: str = "half_pixel"
    mode: str = "nearest"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    fill: float = 0.0


@op("Resize", since=11)
def resize(
    x: Tensor,
    roi: Lengths | None = None,
    scales: Lengths | None = None,
    sizes: Lengths | None = None,
    *,
    antialias: int = 0,
    axes: list[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    build: Build,
) -> Tensor:
    grid = Grid(
        coordinate_transformation_mode,
        mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        bool(antialias),
        extrapolation_value,
    )
    where = [normal(axis, x.rank) for axis in axes] if axes is not None else list(range(x.rank))
    factors, lengths = _targets(x, where, scales, sizes, keep_aspect_ratio_policy)
    region = _region(roi, len(where)) if grid.coordinates == "tf_crop_and_resize" else [(0.0, 1.0)] * len(where)
    upsampled = _upsampled(x, where, factors, lengths, grid, build)
    if upsampled is not None:
        return upsampled
    value = x.value
    for axis, factor, length, span in zip(where, factors, lengths, region, strict=True):
        own = x.shape[axis]
        if factor == 1.0 and (length is None or length == own) and grid.coordinates != "tf_crop_and_resize":
            continue
        if own is None or length is None:
            raise Unsupported("on an image of free size, other than by whole factors; fix the input shapes")
        value = _along(value, x.axes[axis], _recipe(own, length, factor, span, grid), grid)
    return Tensor(value, x.axes)


@op("Resize", since=10)
def resize_old(x: Tensor, scales: Lengths, *, mode: str = "nearest", build: Build) -> Tensor:
    return resize(
        x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor", build=build
    )


@op("Upsample", since=9)
def upsample(x: Tensor, scales: Lengths, *, mode: str = "nearest", build: Build) -> Tensor:
    return resize_old(x, scales, mode=mode, build=build)


@op("Upsample", since=7)
def upsample_attribute(x: Tensor, *, scales: list[float], mode: str = "nearest", build: Build) -> Tensor:
    return resize_old(x, np.array(scales, np.float32), mode=mode, build=build)


def _targets(
    x: Tensor, where: Sequence[int], scales: Lengths | None, sizes: Lengths | None, policy: str
) -> tuple[list[float], list[int | None]]:
    """Return the factor and the length of each axis; a length that depends on a free axis is None."""
    own = [x.shape[axis] for axis in where]
    if scales is not None and (not isinstance(scales, np.ndarray) or scales.size):
        if not isinstance(scales, np.ndarray):
            raise Unsupported("its factors are computed from data")
        factors = [float(scale) for scale in scales.reshape(-1)]
        return factors, [
            None if length is None else int(np.floor(length * factor))
            for length, factor in zip(own, factors, strict=True)
        ]
    if sizes is None:
        raise Unsupported("neither its factors nor its sizes are given")
    wanted = _sizes(sizes, own)
    ratios = [
        1.0 if length is None or want is None else want / length for length, want in zip(own, wanted, strict=True)
    ]
    if policy == "stretch":
        return ratios, wanted
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [ratio] * len(own), [None if length is None else int(np.floor(ratio * length + 0.5)) for length in own]


def _sizes(sizes: Lengths, own: Sequence[int | None]) -> list[int | None]:
    """Wanted lengths; a free one must be that of the axis itself, as the batch is."""
    from tightship.bridges.onnx_to_keras.shapes import lengths
    from tightship.bridges.onnx_to_keras.values import Free

    found = lengths(sizes, "its sizes")
    if any(isinstance(number, Free) and own[place] is not None for place, number in enumerate(found)):
        raise Unsupported("its sizes depend on a free axis; fix the input shapes")
    return [None if isinstance(number, Free) else number for number in found]


def _region(roi: Lengths | None, count: int) -> list[tuple[float, float]]:
    if not isinstance(roi, np.ndarray):
        raise Unsupported("its region is computed from data")
    flat = [float(number) for number in roi.reshape(-1)]
    return list(zip(flat[:count], flat[count:], strict=True))


def _upsampled(
    x: Tensor,
    where: Sequence[int],
    factors: Sequence[float],
    lengths: Sequence[int | None],
    grid: Grid,
    build: Build,
) -> Tensor | None:
    """An UpSampling layer where the factors are whole and its grid is the node's."""
    by_axis = dict(zip(where, factors, strict=True))
    whole = [by_axis.get(axis, 1.0) for axis in range(x.rank)]
    spatial = [round(factor) for factor in whole[2:]]
    kinds = {3: layers.UpSampling1D, 4: layers.UpSampling2D, 5: layers.UpSampling3D}
    if x.rank not in kinds or whole[:2] != [1.0, 1.0] or any(round(factor) != factor for factor in whole[2:]):
        return None
    if max(spatial) == 1 or x.dtype != "float32" or grid.antialias or min(spatial) < 1:
        return None
    factor = spatial[0] if x.rank == 3 else tuple(spatial)
    config: dict[str, Any] = {} if x.rank == 3 else {"data_format": "channels_last"}
    if grid.mode == "nearest" and _repeats(grid):
        return image(build.layer(kinds[x.rank], channels_last(x), size=factor, **config))
    if grid.mode == "linear" and x.rank == 4 and grid.coordinates == "half_pixel":
        return image(
            build.layer(layers.UpSampling2D, channels_last(x), size=factor, interpolation="bilinear", **config)
        )
    return None


def _repeats(grid: Grid) -> bool:
    """Whether the nearest place of each result is that of repetition, for whole factors."""
    if grid.coordinates == "asymmetric":
        return grid.nearest == "floor"
    return grid.coordinates == "half_pixel" and grid.nearest in ("round_prefer_floor", "round_prefer_ceil")


Recipe = tuple[np.ndarray, np.ndarray]
"""Places `[length, taps]` and their shares `[length, taps]`; NaN shares stand for places outside."""


def _recipe(own: int, length: int, factor: float, span: tuple[float, float], grid: Grid) -> Recipe:
    places = _source_places(own, length, factor, span, grid.coordinates)
    if grid.mode == "nearest":
        taps, shares = _nearest(places, grid.nearest)[:, None], np.ones((length, 1))
    elif grid.mode == "linear":
        taps, shares = _weighted(places, factor, own, grid, 1, lambda distance: np.maximum(1 - np.abs(distance), 0))
    elif grid.mode == "cubic":
        taps, shares = _weighted(places, factor, own, grid, 2, lambda distance: _cubic(distance, grid.cubic))
    else:
        raise Unsupported(f"its mode is {grid.mode!r}")
    if grid.coordinates == "tf_crop_and_resize":
        outside = (places < 0) | (places > own - 1)
        shares = np.where(outside[:, None], np.nan, shares)
    return np.clip(taps, 0, own - 1), shares


def _source_places(own: int, length: int, factor: float, span: tuple[float, float], coordinates: str) -> np.ndarray:
    place = np.arange(length, dtype=np.float64)
    exact = factor * own
    if coordinates == "half_pixel":
        return (place + 0.5) / factor - 0.5
    if coordinates == "half_pixel_symmetric":
        middle = own / 2
        return middle * (1 - length / exact) + (place + 0.5) / factor - 0.5
    if coordinates == "pytorch_half_pixel":
        return (place + 0.5) / factor - 0.5 if length > 1 else np.zeros(length)
    if coordinates == "align_corners":
        return place * (own - 1) / (exact - 1) if exact != 1 else np.zeros(length)
    if coordinates == "asymmetric":
        return place / factor
    if coordinates == "tf_crop_and_resize":
        start, end = span
        if length > 1:
            return start * (own - 1) + place * (end - start) * (own - 1) / (length - 1)
        return np.full(length, 0.5 * (start + end) * (own - 1))
    raise Unsupported(f"its coordinates are {coordinates!r}")


def _nearest(places: np.ndarray, rule: str) -> np.ndarray:
    if rule == "round_prefer_floor":
        found = np.ceil(places - 0.5)
    elif rule == "round_prefer_ceil":
        found = np.floor(places + 0.5)
    else:
        found = np.floor(places) if rule == "floor" else np.ceil(places)
    return np.asarray(found, np.int64)


def _weighted(places: np.ndarray, factor: float, own: int, grid: Grid, reach: int, kernel: Any) -> Recipe:
    """Taps around each place and their shares, which add up to one."""
    stretch = min(factor, 1.0) if grid.antialias else 1.0
    width = int(np.ceil(reach / stretch))
    first = np.floor(places).astype(np.int64)
    taps = first[:, None] + np.arange(1 - width, width + 1)
    shares = kernel((taps - places[:, None]) * stretch)
    if grid.exclude_outside or grid.antialias:
        shares = np.where((taps < 0) | (taps >= own), 0.0, shares) if grid.exclude_outside else shares
    return taps, shares / shares.sum(1, keepdims=True)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution (Keys, 1981)."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _along(value: Any, place: int, recipe: Recipe, grid: Grid) -> Any:
    taps, shares = recipe
    rank = len(value.shape)

    def spread(column: np.ndarray) -> np.ndarray:
        return column.reshape([-1 if axis == place else 1 for axis in range(rank)])

    def taken(index: int) -> Any:
        return ops.take(value, taps[:, index].astype(np.int32), axis=place)

    if taps.shape[1] == 1 and not np.isnan(shares).any():
        return taken(0)
    dtype = str(value.dtype)
    carrier = dtype if dtype.startswith("float") else "float32"
    weights = np.nan_to_num(shares).astype(carrier)
    total: Any = 0
    for index in range(taps.shape[1]):
        part = ops.multiply(ops.cast(taken(index), carrier), spread(weights[:, index]))
        total = part if index == 0 else plus(total, part)
    outside = np.asarray(np.isnan(shares).any(1))
    if outside.any():
        total = ops.where(spread(outside), np.full((1,) * rank, grid.fill, carrier), total)
    return ops.cast(total, dtype)
