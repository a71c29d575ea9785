"""Images sampled at coordinates, through an affine map, and in boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op

_PADDING = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}
_CORNERS = {"CORNERS_HEIGHT_FIRST": (0, 1, 2, 3), "CORNERS_WIDTH_FIRST": (1, 0, 3, 2)}


def _number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _image(x: Operand) -> tuple[int, int]:
    height, width = x.shape[-2:]
    if height is None or width is None:
        raise Unsupported("the size of the image is not known before the model runs")
    return height, width


def _normal(pixels: Any, sizes: np.ndarray, aligned: bool, build: Build) -> Any:
    """Pixel coordinates as -1 to 1: between the centres of the outer pixels, or between their edges."""
    factor = 2 / np.maximum(1, sizes - 1) if aligned else 2 / sizes
    shift = -np.ones_like(factor) if aligned else 1 / sizes - 1
    return build("Add", build("Mul", pixels, factor.astype(np.float32)), shift.astype(np.float32))


def _pixels(coordinates: Any, mode: str, sizes: np.ndarray, aligned: bool, build: Build) -> Any:
    """Coordinates of a mode as those of pixels, whose centres are whole numbers."""
    if mode == "unnormalized":
        return coordinates
    if mode not in ("normalized_minus_one_to_one", "normalized_zero_to_one"):
        raise Unsupported(f"coordinates {mode}")
    full = (sizes - 1 if aligned else sizes).astype(np.float64)
    begin = np.zeros_like(full) if aligned else np.full_like(full, -0.5)
    if mode == "normalized_minus_one_to_one":
        full, begin = full / 2, begin + full / 2
    return build("Add", build("Mul", coordinates, full.astype(np.float32)), begin.astype(np.float32))


@op("resample", since=15)
def resample(
    x: Operand,
    coordinates: Operand,
    *,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
    build: Build,
) -> Any:
    """`reflection` leaves the outer pixels out, which is ONNX's with aligned corners; `symmetric` doubles them."""
    if padding_mode not in _PADDING or sampling_mode not in ("bilinear", "nearest"):
        raise Unsupported(f"sampling {sampling_mode} with padding {padding_mode}")
    height, width = _image(x)
    sizes = np.array([width, height])
    given: Any = coordinates if coordinates.is_float else build.cast(coordinates, "float32")
    pixels = _pixels(given, coordinates_mode, sizes, align_corners, build)
    aligned = padding_mode != "symmetric"
    shift = padding_mode == "constant" and padding_value != 0
    image = build("Sub", x, _number(padding_value)) if shift else x
    sampled = build(
        "GridSample",
        image,
        _normal(pixels, sizes, aligned, build),
        mode="linear" if sampling_mode == "bilinear" else "nearest",
        padding_mode=_PADDING[padding_mode],
        align_corners=int(aligned),
    )
    return build("Add", sampled, _number(padding_value)) if shift else sampled


@op("affine", since=15)
def affine(
    x: Operand,
    transform_matrix: Operand,
    *,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
    build: Build,
) -> Any:
    wanted = (sampling_mode.lower(), padding_mode.lower(), float(padding_value), coordinates_mode.lower())
    if wanted != ("bilinear", "constant", 0.0, "normalized_minus_one_to_one"):
        raise Unsupported(f"sampling {wanted}, which Core ML does not have either")
    items = x.dims[0]
    matrix: Any = build.reshape(transform_matrix, [-1, 2, 3])
    if transform_matrix.shape[0] == 1 and items > 1:
        matrix = build("Expand", matrix, np.array([items, 2, 3], np.int64))
    size = np.array([items, x.dims[1], output_height, output_width], np.int64)
    grid = build("AffineGrid", matrix, size, align_corners=int(align_corners))
    return build("GridSample", x, grid, mode="linear", padding_mode="zeros", align_corners=int(align_corners))


@op("crop_resize", since=15)
def crop_resize(
    x: Operand,
    roi: Operand,
    *,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
    build: Build,
) -> Any:
    """Boxes [n, 1, 4, 1, 1] of every image, or [n, 1, 5, 1, 1] that begin with the number of an image."""
    options = (normalized_coordinates, spatial_scale, box_coordinate_mode, sampling_mode, pad_value)
    items, channels = x.dims[:2]
    numbers = build.reshape(roi, [-1, roi.dims[2]])
    if roi.dims[2] == 5:
        boxes = build.slice(numbers, 1, 5, 1)
        index = build.cast(build.reshape(build.slice(numbers, 0, 1, 1), [-1]), "int64")
        cut = _cropped(x, boxes, index, (target_height, target_width), options, build)
        return build.unsqueeze(cut, [1])
    count = roi.dims[0]
    every = build("Expand", build.unsqueeze(numbers, [1]), np.array([count, items, 4], np.int64))
    index = np.tile(np.arange(items, dtype=np.int64), count)
    cut = _cropped(x, build.reshape(every, [-1, 4]), index, (target_height, target_width), options, build)
    return build.reshape(cut, [count, items, channels, target_height, target_width])


@op("crop_resize", since=17)
def crop_resize_by_index(
    x: Operand,
    boxes: Operand,
    box_indices: Operand | None = None,
    *,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
    build: Build,
) -> Any:
    options = (normalized_coordinates, spatial_scale, box_coordinate_mode, sampling_mode, pad_value)
    index = np.arange(boxes.dims[0], dtype=np.int64) if box_indices is None else build.integers(box_indices)
    sides: Any = boxes if boxes.is_float else build.cast(boxes, "float32")
    return _cropped(x, sides, index, (target_height, target_width), options, build)


def _cropped(
    x: Operand, boxes: Any, index: Any, target: tuple[int, int], options: tuple[Any, ...], build: Build
) -> Any:
    """One patch per box, [boxes, channels, height, width]; samples outside the image are the padding value."""
    normalized, scale, order, mode, pad_value = options
    if order not in _CORNERS:
        raise Unsupported(f"boxes of {order}: where the corners of such a box lie is not documented")
    lengths = np.array(_image(x))
    factors = (lengths - 1 if normalized else np.ones(2)) * scale
    top, left, bottom, right = (build.slice(boxes, place, place + 1, 1) for place in _CORNERS[order])
    rows, columns = (
        _samples(begin, end, factor, count, mode, build)
        for begin, end, factor, count in ((top, bottom, factors[0], target[0]), (left, right, factors[1], target[1]))
    )
    grid, outside = _grid(rows, columns, lengths, target, build)
    image = build("Gather", x, index, axis=0)
    patch = build("GridSample", image, grid, mode="linear", padding_mode="border", align_corners=1)
    return build("Where", build.unsqueeze(outside, [1]), _number(pad_value), patch)


def _samples(begin: Any, end: Any, factor: float, count: int, mode: str, build: Build) -> Any:
    """Where samples lie between two sides, [boxes, count]: from one to the other, or in the middle."""
    if mode not in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        raise Unsupported(f"sampling mode {mode} in boxes: where its samples lie is not documented")
    middle = 0.5 if mode == "ALIGN_CORNERS" else 0.0
    part = np.arange(count) / (count - 1) if count > 1 else np.array([middle])
    begin, end = (build("Mul", side, _number(factor)) for side in (begin, end))
    return build("Add", begin, build("Mul", build("Sub", end, begin), part.astype(np.float32)[None]))


def _grid(rows: Any, columns: Any, lengths: np.ndarray, target: tuple[int, int], build: Build) -> tuple[Any, Any]:
    """Coordinates for GridSample, [boxes, height, width, 2], and which of them lie outside the image."""
    shape = build("Concat", build("Shape", rows, end=1), np.array(target, np.int64), axis=0)
    spread = [build("Expand", build.unsqueeze(values, [axis]), shape) for values, axis in ((columns, 1), (rows, 2))]
    outside = []
    for values, length in zip(spread, lengths[::-1], strict=True):
        outside += [build("Less", values, _number(0)), build("Greater", values, _number(length - 1))]
    either = build("Or", build("Or", outside[0], outside[1]), build("Or", outside[2], outside[3]))
    pixels = build("Concat", *(build.unsqueeze(values, [3]) for values in spread), axis=3)
    return _normal(pixels, lengths[::-1], True, build), either
