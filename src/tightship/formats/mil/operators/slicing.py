"""Parts of tensors, read and written."""

from __future__ import annotations

from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op

_END = np.iinfo(np.int64).max
_START = np.iinfo(np.int64).min


def _mask(values: Any, rank: int) -> np.ndarray:
    return np.zeros(rank, bool) if values is None else np.asarray(values, bool).reshape(-1)


def _bounds(
    begin: Operand, end: Operand, steps: np.ndarray, masks: tuple[np.ndarray, np.ndarray, np.ndarray], build: Build
) -> tuple[Any, Any]:
    """Where slices begin and end. A masked one begins or ends where the axis does; a squeezed one has one element."""
    from_start, to_end, single = masks
    back = steps < 0
    starts = build.integers(begin)
    stops = build.integers(end)
    first, last = np.where(back, _END, 0), np.where(back, _START, _END)
    # behind -1 comes the end of the axis
    after = _replaced(build("Add", starts, np.array(1, np.int64)), starts, np.array(-1), _END, build)
    starts = _where(from_start, first, starts, build)
    return starts, _where(single, after, _where(to_end, last, stops, build), build)


def _where(mask: np.ndarray, chosen: Any, other: Any, build: Build) -> Any:
    if not mask.any():
        return other
    if isinstance(chosen, np.ndarray) and isinstance(other, np.ndarray):
        return np.where(mask, chosen, other)
    return build("Where", mask, chosen, other)


def _replaced(value: Any, tested: Any, number: np.ndarray, instead: int, build: Build) -> Any:
    return build("Where", build("Equal", tested, number.astype(np.int64)), np.array(instead, np.int64), value)


def _known_bounds(
    begin: Operand, end: Operand, steps: np.ndarray, masks: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    if begin.known is None or end.known is None:
        return None
    from_start, to_end, single = masks
    starts, stops = begin.known.astype(np.int64), end.known.astype(np.int64)
    after = np.where(starts == -1, _END, starts + 1)
    starts = np.where(from_start, np.where(steps < 0, _END, 0), starts)
    return starts, np.where(single, after, np.where(to_end, np.where(steps < 0, _START, _END), stops))


def _sliced(
    x: Any, begin: Operand, end: Operand, stride: Any, masks: tuple[Any, Any, Any], rank: int, build: Build
) -> tuple[Any, np.ndarray]:
    """The slice with all axes, and which of them are squeezed."""
    arrays = (_mask(masks[0], rank), _mask(masks[1], rank), _mask(masks[2], rank))
    steps = np.ones(rank, np.int64) if stride is None else np.asarray(stride, np.int64).reshape(-1)
    steps = np.where(arrays[2], 1, steps)
    bounds = _known_bounds(begin, end, steps, arrays) or _bounds(begin, end, steps, arrays, build)
    return build("Slice", x, *bounds, np.arange(rank, dtype=np.int64), steps), arrays[2]


@op("slice_by_index", since=15)
def slice_by_index(
    x: Operand,
    begin: Operand,
    end: Operand,
    *,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
    build: Build,
) -> Any:
    part, single = _sliced(x, begin, end, stride, (begin_mask, end_mask, squeeze_mask), x.rank, build)
    return build.squeeze(part, np.flatnonzero(single).tolist()) if single.any() else part


@op("slice_by_size", since=15)
def slice_by_size(x: Operand, begin: Operand, size: Operand, *, build: Build) -> Any:
    """A size of -1 goes to the end; a beginning below 0 counts from the end."""
    axes = np.arange(x.rank, dtype=np.int64)
    if begin.known is not None and size.known is not None:
        first, count = begin.known.astype(np.int64), size.known.astype(np.int64)
        last = np.where((count < 0) | ((first < 0) & (first + count == 0)), _END, first + count)
        return build("Slice", x, first, last, axes)
    starts, sizes = build.integers(begin), build.integers(size)
    zero = np.array(0, np.int64)
    starts = build("Where", build("Less", starts, zero), build("Add", starts, build.shape(x)), starts)
    stops = build("Where", build("Less", sizes, zero), np.array(_END), build("Add", starts, sizes))
    return build("Slice", x, starts, stops, axes)


@op("crop", since=15)
def crop(x: Operand, *, crop_height: Any, crop_width: Any, build: Build) -> Any:
    (top, bottom), (left, right) = (np.asarray(entry).ravel().tolist() for entry in (crop_height, crop_width))
    ends = [-bottom if bottom else _END, -right if right else _END]
    return build("Slice", x, *(build.integers(entry) for entry in ([top, left], ends, [-2, -1])))


@op("slice_update", since=18)
def slice_update(
    x: Operand,
    update: Operand,
    begin: Operand,
    end: Operand,
    *,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
    build: Build,
) -> Any:
    """Positions are numbered and sliced like x; the update is scattered to the numbers that are found."""
    flat = np.array([-1], np.int64)
    count = build("Size", x)
    numbers = build("Range", np.array(0, np.int64), count, np.array(1, np.int64))
    numbers = build("Reshape", numbers, build.shape(x))
    part, _ = _sliced(numbers, begin, end, stride, (begin_mask, end_mask, squeeze_mask), x.rank, build)
    found, values = build("Reshape", part, flat), build("Reshape", update, flat)
    written = build("ScatterElements", build("Reshape", x, flat), found, values, axis=0)
    return build("Reshape", written, build.shape(x))
