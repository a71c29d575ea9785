"""Shapes changed and filled: Reshape, Squeeze, Expand and their kin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import like, normal, plain, without
from tightship.bridges.onnx_to_keras.operators.regrouping import regrouped
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.shapes import Lengths, integers, lengths, shape_of, zeros_along
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Free, Number, Numbers, Tensor, Unsupported

op = OPERATORS.op

Operand = Tensor | np.ndarray


@op("Reshape", since=5)
def reshape(x: Operand, shape: Lengths, *, allowzero: int = 0, build: Build) -> Tensor:
    return reshaped(build.tensor(x), lengths(shape, "its shape"), build, bool(allowzero))


@op("Reshape", since=1)
def reshape_attribute(x: Tensor, *, shape: list[int] | None = None, build: Build) -> Tensor:
    return reshaped(x, shape or (), build)


def reshaped(x: Tensor, wanted: Sequence[Number], build: Build, zero_is_length: bool = False) -> Tensor:
    """Reshape where at most one length, or the batch and one more, are not known beforehand."""
    own = shape_of(x, build.symbols() if build.node.inputs and build.node.op_type == "Reshape" else ())
    target = [
        own.values[place] if isinstance(number, int) and number == 0 and not zero_is_length else number
        for place, number in enumerate(wanted)
    ]
    target = _without_wildcard(target, x)
    if [*target] == [*own.values]:
        return x
    open_places = [place for place, number in enumerate(target) if isinstance(number, Free) or number == -1]
    numbers = tuple(-1 if place in open_places else int(target[place]) for place in range(len(target)))  # type: ignore[arg-type]
    if len(open_places) <= 1:
        return regrouped(x, numbers) or like(ops.reshape(plain(x), numbers))
    first = target[0]
    if len(open_places) == 2 and isinstance(first, Free) and x.rank and x.shape[0] is None and _is_first(first, own):
        return like(build.layer(layers.Reshape, plain(x), target_shape=numbers[1:]))
    raise Unsupported(f"its result has {len(open_places)} free axes that are not those of its input; fix input shapes")


def _without_wildcard(target: list[Number], x: Tensor) -> list[Number]:
    """Compute the -1 where all else is known."""
    if -1 in target and all(isinstance(number, int) for number in target) and None not in x.shape:
        known = _product([number for number in target if isinstance(number, int) and number != -1])
        if known:
            total = _product(x.shape)
            return [total // known if number == -1 else number for number in target]
    return target


def _product(shape: Sequence[int | None]) -> int:
    return math.prod(length for length in shape if length is not None)


def _is_first(number: Free, own: Numbers) -> bool:
    """Whether a length is that of the input's first axis; without names, the first axis of anything is the batch."""
    first = own.values[0]
    if number.same(first):
        return True
    named = isinstance(first, Free) and bool(first.symbol) and bool(number.symbol)
    return not named and number.axis == 0 and number.scale == 1 and number.shift == 0


@op("Flatten")
def flatten(x: Tensor, *, axis: int = 1, build: Build) -> Tensor:
    start = axis + x.rank if axis < 0 else axis
    if start == 1 and x.rank > 1 and x.straight and x.shape[0] is None and None not in x.shape[1:]:
        return like(build.layer(layers.Flatten, x.value))
    before, after = x.shape[:start], x.shape[start:]
    if None not in after:
        return like(ops.reshape(plain(x), (-1, _product(after)))) if 0 not in x.shape else _empty(x)
    if None not in before:
        return like(ops.reshape(plain(x), (_product(before), -1)))
    raise Unsupported("both of its axes would be free; fix the input shapes")


def _empty(x: Tensor) -> Tensor:
    raise Unsupported(f"a tensor without elements, of shape {list(x.shape)}")


@op("Squeeze", since=13)
def squeeze(x: Tensor, axes: Lengths | None = None) -> Tensor:
    return squeezed(x, None if axes is None else integers(axes, "its axes"))


@op("Squeeze", since=1)
def squeeze_attribute(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    return squeezed(x, axes)


def squeezed(x: Tensor, axes: Sequence[int] | None) -> Tensor:
    if axes is None:
        axes = [axis for axis, length in enumerate(x.shape) if length == 1]
    gone = sorted({normal(axis, x.rank) for axis in axes})
    if not gone:
        return x
    return Tensor(ops.squeeze(x.value, tuple(x.axes[axis] for axis in gone)), without(x.axes, gone))


@op("Unsqueeze", since=13)
def unsqueeze(x: Operand, axes: Lengths, *, build: Build) -> Tensor:
    return unsqueezed(build.tensor(x), integers(axes, "its axes"))


@op("Unsqueeze", since=1)
def unsqueeze_attribute(x: Tensor, *, axes: list[int]) -> Tensor:
    return unsqueezed(x, axes)


def unsqueezed(x: Tensor, axes: Sequence[int]) -> Tensor:
    rank = x.rank + len(axes)
    new = sorted(normal(axis, rank) for axis in axes)
    return like(ops.expand_dims(plain(x), tuple(new)))


@op("Expand", since=8)
def expand(x: Operand, shape: Lengths, *, build: Build) -> Tensor:
    return expanded(build.tensor(x), lengths(shape, "its shape"), build)


def expanded(x: Tensor, wanted: Sequence[Number], build: Build) -> Tensor:
    """Broadcast: over known lengths directly, over free ones by adding zeros of that length."""
    rank = max(x.rank, len(wanted))
    own: tuple[int | None, ...] = (1,) * (rank - x.rank) + x.shape
    target: list[Number] = [*(1,) * (rank - len(wanted)), *wanted]
    free = [
        (place, number) for place, number in enumerate(target) if isinstance(number, Free) and own[place] is not None
    ]
    value = plain(x)
    known = [
        length if isinstance(number, Free) or number == 1 or length is None else number
        for length, number in zip(own, target, strict=True)
    ]
    if not free and (rank == x.rank and tuple(known) == own):
        return x
    for place, number in free:
        value = _spread(value, zeros_along(number, rank, place, "int32"))
    if None in known:
        known = [1 if length is None else length for length in known]
        return like(_spread(value, np.zeros(known, "int32")))
    if free:
        flat = [1 if isinstance(number, Free) else length for length, number in zip(known, target, strict=True)]
        return like(_spread(value, np.zeros([length or 1 for length in flat], "int32")) if set(flat) != {1} else value)
    return like(ops.broadcast_to(value, tuple(known)))


def _spread(value: Any, zeros: Any) -> Any:
    dtype = str(value.dtype)
    if dtype == "bool":
        return ops.logical_or(value, ops.cast(zeros, "bool") if not isinstance(zeros, np.ndarray) else zeros != 0)
    return plus(value, zeros.astype(dtype) if isinstance(zeros, np.ndarray) else ops.cast(zeros, dtype))


@op("ConstantOfShape", since=9)
def constant_of_shape(shape: Lengths, *, value: Any = None, build: Build) -> Any:
    fill = np.zeros((), np.float32) if value is None else np.asarray(value).reshape(())
    wanted = lengths(shape, "its shape")
    if all(isinstance(number, int) for number in wanted):
        return np.full([int(number) for number in wanted], fill)  # type: ignore[arg-type]
    return expanded(build.tensor(fill.reshape((1,) * len(wanted))), wanted, build)


@op("Range", since=11)
def numbers_range(start: Lengths, limit: Lengths, delta: Lengths, *, stash_type: int = 1) -> Tensor:
    first, last, step = (lengths(value, "its bounds")[0] for value in (start, limit, delta))
    if not isinstance(last, Free) or first != 0 or step != 1:
        raise Unsupported("its bounds are computed from data")
    return like(counted(last, str(limit.dtype)))


def counted(free: Free, dtype: str = "int32") -> Any:
    """`[0, 1, ..., length - 1]` for a free length."""
    extent = Free(free.source, free.axis)
    count = ops.subtract(ops.cumsum(plus(zeros_along(extent, 1, 0, dtype), np.ones(1, dtype))), np.ones(1, dtype))
    if free.scale != 1 or free.shift > 0:
        raise Unsupported("as many numbers as a free axis has, times or plus something; fix the input shapes")
    return count[(slice(None, free.shift),)] if free.shift else count
