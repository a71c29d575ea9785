"""Orders, sums along an axis, bands, and boxes that do not overlap."""

from __future__ import annotations

from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op


def _sorted(x: Operand, count: Any, axis: int, ascending: bool, build: Build) -> tuple[Any, Any]:
    """Values and indices; ONNX Runtime sorts no shorter integers than those of 32 bits."""
    short = not x.is_float and x.type.carrier.itemsize < 4
    source = build.cast(x, "int32") if short else x
    values, indices = build.several("TopK", 2, source, count, axis=axis, largest=int(not ascending), sorted=1)
    return build.cast(values, str(x.type.carrier)) if short else values, indices


@op("argsort", since=15)
def argsort(x: Operand, *, axis: int = -1, ascending: bool = False, build: Build) -> Any:
    return build.cast(_sorted(x, build.length(x, axis), axis, ascending, build)[1], "int32")


@op("topk", since=15)
def topk(
    x: Operand,
    *,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
    build: Build,
) -> Any:
    """All elements where k is -1."""
    count = build.length(x, axis) if k == -1 else np.array([k], np.int64)
    values, indices = _sorted(x, count, axis, ascending, build)
    return (values, build.cast(indices, output_indices_dtype)) if return_indices else values


@op("cumsum", since=15)
def cumsum(x: Operand, *, axis: int = 0, exclusive: bool = False, reverse: bool = False, build: Build) -> Any:
    return build("CumSum", x, np.array(axis, np.int64), exclusive=int(exclusive), reverse=int(reverse))


@op("band_part", since=15)
def band_part(x: Operand, *, lower: int = -1, upper: int = -1, build: Build) -> Any:
    """Zero but `lower` diagonals below the main one and `upper` above; all of them where negative."""
    rows, columns = x.shape[-2:]
    if rows is None or columns is None:
        return _band(x, lower, upper, build)
    distance = np.arange(columns) - np.arange(rows)[:, None]
    kept = ((lower < 0) | (-distance <= lower)) & ((upper < 0) | (distance <= upper))
    if x.is_bool:
        return build("And", x, kept)
    return build("Where", kept, x, build.like(x, 0))


def _band(x: Operand, lower: int, upper: int, build: Build) -> Any:
    if x.is_bool or not x.is_float:
        raise Unsupported("the shape of integers is not known before the model runs")
    value: Any = x
    if lower >= 0:
        value = build("Trilu", value, np.array(-lower, np.int64), upper=1)
    if upper >= 0:
        value = build("Trilu", value, np.array(upper, np.int64), upper=0)
    return value if value is not x else build("Identity", x)


@op("non_maximum_suppression", since=15)
def non_maximum_suppression(
    boxes: Operand,
    scores: Operand,
    *,
    iou_threshold: float,
    score_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
    build: Build,
) -> Any:
    """A box counts by the highest of its classes' scores."""
    _one_class(scores.shape[2], per_class_suppression)
    best = build("ReduceMax", scores, np.array([2], np.int64), keepdims=1)
    best = build.transpose(best, [0, 2, 1])
    return _suppressed(boxes, boxes, scores, best, (iou_threshold, score_threshold, max_boxes), build)


@op("non_maximum_suppression", since=17)
def non_maximum_suppression_of_columns(
    boxes: Operand,
    scores: Operand,
    *,
    iou_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
    build: Build,
) -> Any:
    """With the boxes in the last axis, and no threshold for scores."""
    _one_class(scores.shape[1], per_class_suppression)
    best = build("ReduceMax", scores, np.array([1], np.int64), keepdims=1)
    rows, lines = build.transpose(boxes, [0, 2, 1]), build.transpose(scores, [0, 2, 1])
    found, values, indices, _ = _suppressed(boxes, rows, lines, best, (iou_threshold, None, max_boxes), build)
    return build.transpose(found, [0, 2, 1]), build.transpose(values, [0, 2, 1]), indices


def _one_class(classes: int | None, per_class: bool) -> None:
    if per_class and classes != 1:
        raise Unsupported("suppression within each class: which of a box's classes it counts for is not documented")


def _suppressed(boxes: Operand, rows: Any, lines: Any, best: Any, limits: tuple[Any, ...], build: Build) -> Any:
    """Boxes, scores, indices and counts of each image, filled up with zeros and indices of -1."""
    iou, lowest, count = limits
    images = boxes.shape[0]
    if images is None:
        raise Unsupported("the number of images is not known before the model runs")
    numbers = np.array([count], np.int64), np.array([iou], np.float32)
    least = None if lowest is None else np.array([lowest], np.float32)
    parts = []
    for image in range(images):
        sides = (build.slice(entry, image, image + 1, 0) for entry in (rows, best))
        chosen = build("NonMaxSuppression", *sides, *numbers, least, center_point_box=1)
        index = build.reshape(build.slice(chosen, 2, 3, 1), [-1])
        parts.append([_filled(entry, index, image, count, build) for entry in (rows, lines, index)])
        parts[-1].append(build.cast(build("Shape", index), "int32"))
    return tuple(build("Concat", *column, axis=0) for column in zip(*parts, strict=True))


def _filled(values: Any, index: Any, image: int, count: int, build: Build) -> Any:
    """What the index chooses of one image, [1, count, ...]; of the index itself, its numbers."""
    missing = build("Sub", np.array([count], np.int64), build("Shape", index))
    zero = np.array([0], np.int64)
    if values is index:
        padded = build(
            "Pad", build.cast(index, "int32"), build("Concat", zero, missing, axis=0), np.array(-1, np.int32)
        )
        return build.unsqueeze(padded, [0])
    chosen = build("Gather", build.slice(values, image, image + 1, 0), index, axis=1)
    return build("Pad", chosen, build("Concat", np.zeros(4, np.int64), missing, zero, axis=0))
