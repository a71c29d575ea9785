"""Shape arithmetic at conversion time, and its way into tensors where nothing else is left."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.bridges.onnx_to_keras.layout import like, plain
from tightship.bridges.onnx_to_keras.values import Free, Number, Numbers, Tensor, Unsupported, Value

if TYPE_CHECKING:
    from keras import KerasTensor

    from tightship.bridges.onnx_to_keras.build import Build

__all__ = ["Lengths", "as_tensor", "integers", "lengths", "shape_of", "single", "zeros_along"]

Lengths = Numbers | np.ndarray | Tensor
"""What an operator may be given for a shape or an index. Parameters annotated so are given `Numbers` as they are."""


def shape_of(tensor: Tensor, symbols: Sequence[str | None] = ()) -> Numbers:
    """Return the shape of a tensor; free lengths know where they come from."""
    names = symbols if len(symbols) == tensor.rank else (None,) * tensor.rank
    return Numbers(
        tuple(
            Free(tensor, axis, names[axis]) if length is None else int(length)
            for axis, length in enumerate(tensor.shape)
        )
    )


def lengths(value: Lengths, what: str) -> tuple[Number, ...]:
    """Return numbers that are known or free lengths. Raises `Unsupported` where they are computed from data."""
    if isinstance(value, Numbers):
        return value.values
    if isinstance(value, np.ndarray):
        return tuple(int(number) for number in value.reshape(-1))
    raise Unsupported(f"{what} is computed from data")


def integers(value: Lengths, what: str) -> tuple[int, ...]:
    """Return numbers that are known. Raises `Unsupported` where they are free or computed from data."""
    found = lengths(value, what)
    if any(isinstance(number, Free) for number in found):
        raise Unsupported(f"{what} depends on a free axis; fix the input shapes")
    return tuple(number for number in found if isinstance(number, int))


def single(value: Any, what: str) -> Any:
    """Return the one number in a constant, as Python's. Raises `Unsupported` where it is computed from data."""
    if not isinstance(value, np.ndarray):
        raise Unsupported(f"{what} is not constant")
    return value.reshape(-1)[0].item()


def as_tensor(numbers: Numbers, build: Build) -> Tensor:
    """Compute the numbers when the model runs: a free length is the sum of ones along its axis."""
    from keras import ops

    parts = [_counted(value, numbers.dtype) if isinstance(value, Free) else value for value in numbers.values]
    zero = ops.cast(build.ground.zero, numbers.dtype)
    parts = [ops.add(zero, part) if isinstance(part, int) else part for part in parts]
    joined = ops.concatenate([ops.reshape(part, (1,)) for part in parts]) if parts else zero[(slice(0, 0),)]
    return like(ops.reshape(joined, ()) if numbers.scalar else joined)


def _counted(free: Free, dtype: str) -> KerasTensor:
    from keras import ops

    count = ops.sum(ops.ones_like(_line(free.source, free.axis), dtype=dtype))
    count = count if free.scale == 1 else ops.multiply(count, free.scale)
    count = count if free.shift == 0 else ops.add(count, free.shift)
    return ops.cast(count, dtype)


def _line(source: Tensor, axis: int) -> KerasTensor:
    """One row of a tensor along an axis, whatever it holds."""
    key = tuple(slice(None) if other == axis else 0 for other in range(source.rank))
    return plain(source)[key]


def zeros_along(free: Free, rank: int, axis: int, dtype: str) -> KerasTensor:
    """Zeros of the free length along `axis` of a shape of `rank` axes that are else 1 long."""
    from keras import ops

    if free.scale != 1 or free.shift != 0:
        raise Unsupported("a length that is computed from a free axis; fix the input shapes")
    zeros = ops.zeros_like(_line(free.source, free.axis), dtype=dtype)
    return ops.reshape(zeros, tuple(-1 if place == axis else 1 for place in range(rank)))


def combined(left: Numbers | np.ndarray, right: Numbers | np.ndarray, function: Callable[[Number, Number], Any]) -> Any:
    """Apply a function of two numbers elementwise, or return NotImplemented where it cannot follow them."""
    if left.shape and right.shape and 1 not in (*left.shape, *right.shape) and left.shape != right.shape:
        return NotImplemented
    if max(len(left.shape), len(right.shape)) > 1:
        return NotImplemented
    first, second = lengths(left, "a number"), lengths(right, "a number")
    size = 0 if 0 in (len(first), len(second)) else max(len(first), len(second))
    first, second = first * (size // max(len(first), 1)), second * (size // max(len(second), 1))
    results = [function(one, two) for one, two in zip(first, second, strict=True)]
    if any(result is NotImplemented for result in results):
        return NotImplemented
    scalar = not left.shape and not right.shape
    if all(isinstance(result, bool) for result in results):
        return np.array(results, bool).reshape(() if scalar else (len(results),))
    return Numbers(tuple(results), scalar, str(left.dtype)).simplified()


def added(left: Number, right: Number) -> Any:
    if isinstance(left, int):
        left, right = right, left
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    if isinstance(left, Free) and isinstance(right, int):
        return replace(left, shift=left.shift + right)
    return NotImplemented


def subtracted(left: Number, right: Number) -> Any:
    if isinstance(right, int):
        return added(left, -right)
    return 0 if right.same(left) else NotImplemented


def multiplied(left: Number, right: Number) -> Any:
    if isinstance(left, int):
        left, right = right, left
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    if isinstance(left, Free) and isinstance(right, int):
        return replace(left, scale=left.scale * right, shift=left.shift * right) if right else 0
    return NotImplemented


def divided(left: Number, right: Number) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        return int(left / right) if right else NotImplemented
    if isinstance(left, Free) and isinstance(right, int) and right and not (left.scale % right or left.shift % right):
        return replace(left, scale=left.scale // right, shift=left.shift // right)
    return 1 if isinstance(left, Free) and left.same(right) else NotImplemented


def compared(test: Callable[[int, int], bool]) -> Callable[[Number, Number], Any]:
    """A comparison where the free length is known to be on one side: lengths are never below `shift`."""

    def compare(left: Number, right: Number) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            return test(left, right)
        if isinstance(left, Free) and isinstance(right, Free):
            return test(0, 0) if left.same(right) else NotImplemented
        free, number, turned = (left, right, False) if isinstance(left, Free) else (right, left, True)
        if not isinstance(free, Free) or not isinstance(number, int) or free.scale < 0 or number >= free.shift:
            return NotImplemented
        return test(number, number + 1) if turned else test(number + 1, number)

    return compare


COMPARISONS = {
    "Equal": compared(operator.eq),
    "Less": compared(operator.lt),
    "LessOrEqual": compared(operator.le),
    "Greater": compared(operator.gt),
    "GreaterOrEqual": compared(operator.ge),
}


def chosen(condition: Value, left: Numbers | np.ndarray, right: Numbers | np.ndarray) -> Any:
    """Where, on a known condition."""
    if not isinstance(condition, np.ndarray) or condition.ndim > 1:
        return NotImplemented
    size = max(condition.size, len(lengths(left, "a number")), len(lengths(right, "a number")))
    flags = np.broadcast_to(condition.reshape(-1), (size,))
    first, second = (lengths(side, "a number") * (size if side.shape in ((), (1,)) else 1) for side in (left, right))
    if len(first) < size or len(second) < size:
        return NotImplemented
    values = tuple(first[index] if flags[index] else second[index] for index in range(size))
    scalar = not condition.ndim and not left.shape and not right.shape
    return Numbers(values, scalar, str(left.dtype)).simplified()
