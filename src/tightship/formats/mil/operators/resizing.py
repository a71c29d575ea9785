"""Images made larger and smaller, by every way of placing the samples that MIL has.

Of an input of n samples, sample i of m lies at (all of them kept within 0 and n - 1):

    STRICT_ALIGN_CORNERS   i (n - 1) / (m - 1)                ONNX: align_corners
    ALIGN_CORNERS          the same; (n - 1) / 2 where m = 1
    DEFAULT                i n / m                            ONNX: asymmetric
    UNALIGN_CORNERS        (i + 1/2) n / m - 1/2              ONNX: half_pixel
    OFFSET_CORNERS         (i + 1/2) max(1, n - 1) / m        no counterpart: two matrix products
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op

_PLACES = {
    "STRICT_ALIGN_CORNERS": "align_corners",
    "ALIGN_CORNERS": "align_corners",
    "DEFAULT": "asymmetric",
    "UNALIGN_CORNERS": "half_pixel",
}


def places(mode: str, length: int, count: int) -> np.ndarray:
    """Where `count` samples lie on an axis of `length`."""
    number = np.arange(count, dtype=np.float64)
    if mode == "ALIGN_CORNERS" and count == 1:
        return np.array([(length - 1) / 2])
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        found = number * (length - 1) / max(1, count - 1)
    elif mode == "DEFAULT":
        found = number * length / count
    elif mode == "UNALIGN_CORNERS":
        found = (number + 0.5) * length / count - 0.5
    elif mode == "OFFSET_CORNERS":
        found = (number + 0.5) * max(1, length - 1) / count
    else:
        raise Unsupported(f"sampling mode {mode}")
    return np.clip(found, 0, length - 1)


def _weights(where: np.ndarray, length: int) -> np.ndarray:
    """The matrix [samples, length] of linear interpolation."""
    low = np.floor(where).astype(int)
    high = np.minimum(low + 1, length - 1)
    part = where - low
    matrix = np.zeros((len(where), length))
    rows = np.arange(len(where))
    np.add.at(matrix, (rows, low), 1 - part)
    np.add.at(matrix, (rows, high), part)
    return matrix.astype(np.float32)


def _linear(x: Operand, mode: str, sizes: list[int], build: Build) -> Any:
    """Interpolate the last axes to these sizes."""
    known = x.shape[-len(sizes) :]
    single = mode == "ALIGN_CORNERS" and 1 in sizes
    if mode != "OFFSET_CORNERS" and not single:
        return _resize(x, _of_all(x, sizes, build), None, mode="linear", place=_place(mode), build=build)
    if None in known or not x.is_float:
        raise Unsupported(f"sampling mode {mode}, where the size of its input is not known before the model runs")
    value: Any = x
    for axis, (length, size) in enumerate(zip(known, sizes, strict=True), x.rank - len(sizes)):
        matrix = _weights(places(mode, length or 0, size), length or 0)
        order = [*range(axis), *range(axis + 1, x.rank), axis]
        turned = build("MatMul", build.transpose(value, order), matrix.T)
        value = build.transpose(turned, np.argsort(order).tolist())
    return value


def _place(mode: str) -> str:
    if mode not in _PLACES:
        raise Unsupported(f"sampling mode {mode}")
    return _PLACES[mode]


def _of_all(x: Operand, sizes: list[int], build: Build) -> Any:
    """The sizes of all axes, in int64."""
    kept = x.shape[: x.rank - len(sizes)]
    if None not in kept:
        return np.array([*kept, *sizes], np.int64)
    return build("Concat", build("Shape", x, end=x.rank - len(sizes)), np.array(sizes, np.int64), axis=0)


def _resize(x: Any, sizes: Any, scales: Any, *, mode: str, place: str, build: Build, nearest: str | None = None) -> Any:
    return build(
        "Resize", x, None, scales, sizes, mode=mode, coordinate_transformation_mode=place, nearest_mode=nearest
    )


@op("resize_bilinear", since=15)
def resize_bilinear(
    x: Operand,
    *,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
    build: Build,
) -> Any:
    return _linear(x, sampling_mode, [target_size_height, target_size_width], build)


@op("resize_nearest_neighbor", since=15)
def resize_nearest_neighbor(x: Operand, *, target_size_height: int, target_size_width: int, build: Build) -> Any:
    """Sample i is that at floor((i + 1/2) n / m)."""
    sizes = _of_all(x, [target_size_height, target_size_width], build)
    return _nearest(x, sizes, build)


def _nearest(x: Operand, sizes: Any, build: Build) -> Any:
    return _resize(x, sizes, None, mode="nearest", place="half_pixel", nearest="round_prefer_ceil", build=build)


def _scaled(x: Operand, height: float, width: float) -> tuple[list[int] | None, np.ndarray]:
    """The sizes of the last two axes where they are known, and the factors of all axes."""
    factors = np.array([*[1.0] * (x.rank - 2), height, width], np.float32)
    lengths = x.shape[-2:]
    if None in lengths:
        return None, factors
    return [int(np.floor(f * (n or 0))) for f, n in zip((height, width), lengths, strict=True)], factors


@op("upsample_nearest_neighbor", since=15)
def upsample_nearest_neighbor(
    x: Operand, *, scale_factor_height: float = 1, scale_factor_width: float = 1, build: Build
) -> Any:
    """Sample i is that at floor(i n / m)."""
    sizes, factors = _scaled(x, scale_factor_height, scale_factor_width)
    given = (None, factors) if sizes is None else (_of_all(x, sizes, build), None)
    return _resize(x, *given, mode="nearest", place="asymmetric", nearest="floor", build=build)


@op("upsample_bilinear", since=15)
def upsample_bilinear(
    x: Operand,
    *,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
    build: Build,
) -> Any:
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    sizes, factors = _scaled(x, scale_factor_height, scale_factor_width)
    if sizes is None:
        return _resize(x, None, factors, mode="linear", place=_place(mode), build=build)
    return _linear(x, mode, sizes, build)


@op("resize", since=17)
def resize(
    x: Operand,
    shape: Operand,
    *,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
    build: Build,
) -> Any:
    """The last axes take the last lengths of `shape`; a 0 keeps what is there."""
    if interpolation_mode not in ("LINEAR", "NEAREST_NEIGHBOR"):
        raise Unsupported(f"interpolation {interpolation_mode}")
    nearest = interpolation_mode == "NEAREST_NEIGHBOR"
    if nearest and sampling_mode != "DEFAULT":
        raise Unsupported(
            f"the nearest neighbour of sampling mode {sampling_mode}: which one that is, is not documented"
        )
    sizes = _sizes(x, shape, resized_dims)
    if nearest:
        return _nearest(x, _of_all(x, sizes, build) if sizes else _computed_sizes(x, shape, resized_dims, build), build)
    if sizes:
        return _linear(x, sampling_mode, sizes, build)
    computed = _computed_sizes(x, shape, resized_dims, build)
    return _resize(x, computed, None, mode="linear", place=_place(sampling_mode), build=build)


def _sizes(x: Operand, shape: Operand, count: int) -> list[int] | None:
    if shape.known is None:
        return None
    wanted = shape.known.astype(int).tolist()[shape.known.size - count :]
    found = [size or kept for size, kept in zip(wanted, x.shape[x.rank - count :], strict=True)]
    return None if None in found else [size for size in found if size is not None]


def _computed_sizes(x: Operand, shape: Operand, count: int, build: Build) -> Any:
    length = shape.dims[0]
    wanted = build.slice(build.integers(shape), length - count, length, 0)
    here = build("Shape", x)
    last = build.slice(here, x.rank - count, x.rank, 0)
    chosen = build("Where", build("Equal", wanted, np.array(0, np.int64)), last, wanted)
    return build("Concat", build.slice(here, 0, x.rank - count, 0), chosen, axis=0)
