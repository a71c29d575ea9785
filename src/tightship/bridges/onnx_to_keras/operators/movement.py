"""Operators that move elements: shapes change, numbers do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import like, normal, permuted, plain
from tightship.bridges.onnx_to_keras.operators.reshaping import counted
from tightship.bridges.onnx_to_keras.shapes import Lengths, integers, lengths, shape_of
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Free, Number, Numbers, Tensor, Unsupported, rank_of

op = OPERATORS.op

Operand = Tensor | np.ndarray


@op("Identity")
def identity(x: Any) -> Any:
    return x


@op("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None, build: Build) -> Any:
    return Numbers(shape_of(x, build.symbols()).values[start:end]).simplified()


@op("Size")
def size(x: Tensor, *, build: Build) -> Any:
    free = [number for number in shape_of(x).values if isinstance(number, Free)]
    known = int(np.prod([length for length in x.shape if length is not None], dtype=np.int64))
    if not free:
        return np.array(known, np.int64)
    if len(free) > 1:
        return like(ops.sum(ops.ones_like(x.value, dtype="int64")))
    return Numbers((Free(x, free[0].axis, None, known),), scalar=True)


@op("Transpose")
def transpose(x: Tensor, *, perm: list[int] | None = None) -> Tensor:
    return permuted(x, tuple(reversed(range(x.rank))) if perm is None else perm)


@op("Concat", since=4)
def concat(*inputs: Lengths, axis: int, build: Build) -> Tensor:
    return _joined([_operand(value, build) for value in inputs], axis, build)


@op("Concat", since=1)
def concat_default(*inputs: Lengths, axis: int | None = None, build: Build) -> Tensor:
    return _joined([_operand(value, build) for value in inputs], 1 if axis is None else axis, build)


def _operand(value: Lengths, build: Build) -> Operand:
    from tightship.bridges.onnx_to_keras.shapes import as_tensor

    return as_tensor(value, build) if isinstance(value, Numbers) else value


def _joined(values: Sequence[Operand], axis: int, build: Build) -> Tensor:
    rank = rank_of(values[0])
    # A constant is a list of numbers in the model; a NumPy array of one element must keep its rank here.
    operands, axes = build.aligned(*[value for value in values if isinstance(value, Tensor)])
    tensors = iter(operands)
    parts = [
        next(tensors)
        if isinstance(value, Tensor)
        else build.constant(value.transpose(np.argsort(axes)) if rank > 1 else value)
        for value in values
    ]
    if len(parts) == 1:
        return Tensor(parts[0], axes)
    place = axes[normal(axis, rank)]
    if all(isinstance(value, Tensor) for value in values) and str(parts[0].dtype) in ("float32", "float64"):
        return Tensor(build.layer(layers.Concatenate, parts, axis=place), axes)
    return Tensor(ops.concatenate(parts, axis=place), axes)


@op("Split", since=18)
def split(
    x: Tensor, split: Lengths | None = None, *, axis: int = 0, num_outputs: int | None = None, build: Build
) -> tuple[Tensor, ...]:
    sizes = None if split is None else integers(split, "its lengths")
    return divided(x, axis, sizes, num_outputs or len(build.node.outputs))


@op("Split", since=13)
def split_equal(x: Tensor, split: Lengths | None = None, *, axis: int = 0, build: Build) -> tuple[Tensor, ...]:
    return divided(x, axis, None if split is None else integers(split, "its lengths"), len(build.node.outputs))


@op("Split", since=2)
def split_attribute(x: Tensor, *, axis: int = 0, split: list[int] | None = None, build: Build) -> tuple[Tensor, ...]:
    return divided(x, axis, split, len(build.node.outputs))


def divided(x: Tensor, axis: int, sizes: Sequence[int] | None, count: int) -> tuple[Tensor, ...]:
    """Cut along an axis into parts of these sizes, or into `count` equal ones of which the last may be shorter."""
    logical = normal(axis, x.rank)
    length = x.shape[logical]
    if sizes is None:
        if length is None:
            raise Unsupported("the axis it cuts is free; fix the input shapes")
        each = -(-length // count)
        sizes = [min(each, length - each * index) for index in range(count)]
    starts = np.cumsum([0, *sizes])
    return tuple(
        cut(x, {logical: slice(int(start), int(start + size))}) for start, size in zip(starts, sizes, strict=False)
    )


def cut(x: Tensor, keys: dict[int, slice]) -> Tensor:
    """Slice logical axes."""
    key: list[Any] = [slice(None)] * x.rank
    for axis, part in keys.items():
        key[x.axes[axis]] = part
    return Tensor(x.value[tuple(key)], x.axes)


@op("Slice", since=10)
def slice_tensor(
    x: Operand,
    starts: Lengths,
    ends: Lengths,
    axes: Lengths | None = None,
    steps: Lengths | None = None,
    *,
    build: Build,
) -> Tensor:
    first, last = lengths(starts, "its start"), lengths(ends, "its end")
    where = range(len(first)) if axes is None else integers(axes, "its axes")
    step = (1,) * len(first) if steps is None else integers(steps, "its step")
    return _sliced(build.tensor(x), list(zip(where, first, last, step, strict=True)), build)


@op("Slice", since=1)
def slice_attributes(
    x: Tensor, *, starts: list[int], ends: list[int], axes: list[int] | None = None, build: Build
) -> Tensor:
    where = range(len(starts)) if axes is None else axes
    return _sliced(x, [(axis, start, end, 1) for axis, start, end in zip(where, starts, ends, strict=True)], build)


def _sliced(x: Tensor, parts: Sequence[tuple[int, Number, Number, int]], build: Build) -> Tensor:
    own = shape_of(x, build.symbols() if build.node.op_type == "Slice" else ()).values
    keys = {}
    for axis, start, end, step in parts:
        place = normal(axis, x.rank)
        length = own[place]
        if isinstance(end, Free) and isinstance(length, Free) and end.same(length):
            end = 2**31 - 1
        if isinstance(end, Free) and start == 0 and step == 1:
            x = Tensor(ops.take(x.value, counted(end), axis=x.axes[place]), x.axes)
            continue
        if isinstance(start, Free) or isinstance(end, Free):
            raise Unsupported("its bounds depend on a free axis; fix the input shapes")
        if isinstance(length, int):
            keys[place] = slice(*_bounds(start, end, step, length))
        else:
            keys[place] = slice(start, None if end >= 2**31 - 1 or end <= -(2**31) else end, step)
    keys = {place: part for place, part in keys.items() if part != slice(0, x.shape[place], 1)}
    return cut(x, keys) if keys else x


def _bounds(start: int, end: int, step: int, length: int) -> tuple[int, int | None, int]:
    """Bounds as Python's slices clamp them."""
    first, last, step = slice(start, end, step).indices(length)
    return (first, None if last < 0 else last, step)


@op("Tile", since=6)
def tile(x: Tensor, repeats: Lengths) -> Tensor:
    counts = integers(repeats, "its repeats")
    return Tensor(ops.tile(x.value, tuple(counts[x.axes.index(place)] for place in range(x.rank))), x.axes)


@op("Pad", since=11)
def pad(
    x: Tensor,
    pads: Lengths,
    constant_value: np.ndarray | Tensor | None = None,
    axes: Lengths | None = None,
    *,
    mode: str = "constant",
    build: Build,
) -> Tensor:
    numbers = integers(pads, "its widths")
    where = range(x.rank) if axes is None else [normal(axis, x.rank) for axis in integers(axes, "its axes")]
    widths = dict(zip(where, zip(numbers, numbers[len(numbers) // 2 :], strict=False), strict=True))
    if isinstance(constant_value, Tensor):
        return _padded_with(x, widths, constant_value)
    fill = 0 if constant_value is None or not constant_value.size else constant_value.reshape(-1)[0].item()
    return padded(x, widths, mode, fill)


def _padded_with(x: Tensor, widths: dict[int, tuple[int, int]], fill: Tensor) -> Tensor:
    """Pad with a number that is computed from data: it is chosen wherever a padded mask says so."""
    inside = padded(Tensor(ops.ones_like(x.value, dtype="bool"), x.axes), widths, fill=False)
    return Tensor(ops.where(inside.value, padded(x, widths).value, ops.reshape(plain(fill), ())), inside.axes)


@op("Pad", since=2)
def pad_attribute(x: Tensor, *, pads: list[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    return padded(x, {axis: (pads[axis], pads[axis + x.rank]) for axis in range(x.rank)}, mode, value)


def padded(x: Tensor, widths: dict[int, tuple[int, int]], mode: str = "constant", fill: Any = 0) -> Tensor:
    """Pad logical axes; negative widths cut."""
    cuts = {axis: width for axis, width in widths.items() if min(width) < 0}
    if cuts:
        keys = {axis: slice(max(-low, 0), -max(-high, 0) or None) for axis, (low, high) in cuts.items()}
        x = cut(x, keys)
        widths = {axis: (max(low, 0), max(high, 0)) for axis, (low, high) in widths.items()}
    if not any(low or high for low, high in widths.values()):
        return x
    physical = [(0, 0)] * x.rank
    for axis, width in widths.items():
        physical[x.axes[axis]] = width
    if mode == "constant":
        return Tensor(ops.pad(x.value, tuple(physical), constant_values=fill), x.axes)
    if mode in ("reflect", "edge", "wrap"):
        return Tensor(_mirrored(x.value, physical, mode), x.axes)
    raise Unsupported(f"its mode is {mode!r}")


def _mirrored(value: Any, widths: Sequence[tuple[int, int]], mode: str) -> Any:
    for place, (low, high) in enumerate(widths):
        if not (low or high):
            continue
        length = value.shape[place]
        if length is None:
            raise Unsupported(f"in mode {mode!r} along a free axis; fix the input shapes")
        index = np.pad(np.arange(length), (low, high), mode=mode).astype(np.int32)  # type: ignore[call-overload]
        value = ops.take(value, index, axis=place)
    return value


@op("DepthToSpace", since=1)
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR", build: Build) -> Tensor:
    n, channels, height, width = _one_free(x)
    inner = -1 if channels == -1 else channels // blocksize**2
    if mode == "DCR":
        parts, order = (n, blocksize, blocksize, inner, height, width), (0, 3, 4, 1, 5, 2)
    else:
        parts, order = (n, inner, blocksize, blocksize, height, width), (0, 1, 4, 2, 5, 3)
    value = ops.transpose(ops.reshape(plain(x), parts), order)
    return like(ops.reshape(value, (n, inner, height * blocksize, width * blocksize)))


@op("SpaceToDepth", since=1)
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, channels, height, width = _one_free(x)
    deeper = -1 if channels == -1 else channels * blocksize**2
    parts = (n, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    value = ops.transpose(ops.reshape(plain(x), parts), order)
    return like(ops.reshape(value, (n, deeper, height // blocksize, width // blocksize)))


def _one_free(x: Tensor) -> tuple[int, int, int, int]:
    """Return the shape of an image, -1 where it is free: in the batch, or in channels that the batch was put into.

    Dilated convolutions of TensorFlow move the batch there and back.
    """
    n, channels, height, width = (-1 if length is None else length for length in x.shape)
    if -1 in (height, width) or (n == -1 and channels == -1):
        raise Unsupported("its image has a free size; fix the input shapes")
    return n, channels, height, width


@op("Constant")
def constant(
    *,
    sparse_value: Any = None,
    value: Any = None,
    value_float: float | None = None,
    value_floats: list[float] | None = None,
    value_int: int | None = None,
    value_ints: list[int] | None = None,
    value_string: str | None = None,
    value_strings: list[str] | None = None,
) -> np.ndarray:
    if sparse_value is not None:
        raise Unsupported("its value is sparse")
    if value_string is not None or value_strings is not None:
        return np.array(value_strings if value_string is None else value_string, object)
    if value is not None:
        return np.asarray(value)
    if value_float is not None or value_floats is not None:
        return np.array(value_floats if value_float is None else value_float, np.float32)
    return np.array(value_ints if value_int is None else value_int, np.int64)
