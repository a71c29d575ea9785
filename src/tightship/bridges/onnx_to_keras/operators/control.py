"""Branches and loops: what is known while converting is followed, loops of known length are written out.

Keras' functional models hold no subgraphs, so a condition that is computed from data picks between both results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import like, normal, plain
from tightship.bridges.onnx_to_keras.shapes import Lengths, integers
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported, dtype_of

op = OPERATORS.op

_MOST_ROUNDS = 256
"""Loops with more rounds would make a model of many thousand operations."""


@op("If")
def branch(condition: Tensor | np.ndarray, *, then_branch: Any, else_branch: Any, build: Build) -> tuple[Any, ...]:
    if isinstance(condition, np.ndarray):
        return tuple(build.run(then_branch if condition.reshape(-1)[0] else else_branch, []))
    flag = ops.reshape(plain(condition), ())
    pairs = zip(build.run(then_branch, []), build.run(else_branch, []), strict=True)
    return tuple(_either(flag, yes, no, build) for yes, no in pairs)


def _either(flag: Any, yes: Any, no: Any, build: Build) -> Tensor:
    if not all(isinstance(value, Tensor | np.ndarray) for value in (yes, no)):
        raise Unsupported("its condition is computed from data and its results are sequences or optionals")
    if yes.shape != no.shape or dtype_of(yes) != dtype_of(no):
        raise Unsupported("its condition is computed from data and its branches give different shapes")
    return like(ops.where(flag, plain(build.tensor(yes)), plain(build.tensor(no))))


@op("Loop", since=1)
def loop(count: Any = None, condition: Any = None, *initial: Any, body: Any, build: Build) -> tuple[Any, ...]:
    most = _MOST_ROUNDS + 1 if count is None else min(integers(count, "its number of rounds")[0], _MOST_ROUNDS + 1)
    going: Any = np.array(True) if condition is None else condition
    states, rows = list(initial), []
    for index in range(most):
        if isinstance(going, np.ndarray) and not going.reshape(-1)[0]:
            break
        if index == _MOST_ROUNDS:
            raise Unsupported(f"it has more than {_MOST_ROUNDS} rounds, or as many as data tell")
        results = build.run(body, [np.array(index, np.int64), going, *states])
        new, outputs = results[1 : 1 + len(states)], results[1 + len(states) :]
        if isinstance(going, Tensor):
            if outputs:
                raise Unsupported("its number of rounds is computed from data")
            flag = ops.reshape(plain(going), ())
            new = [_either(flag, fresh, old, build) for fresh, old in zip(new, states, strict=True)]
            going = like(ops.logical_and(flag, ops.reshape(plain(build.tensor(results[0])), ())))
        else:
            going = results[0]
        states = new
        rows.append(outputs)
    if not rows and len(build.node.outputs) > len(states):
        raise Unsupported("it has no rounds, so its results have no known shape")
    return (*states, *(_stacked(row, 0, build) for row in zip(*rows, strict=True)))


def _stacked(values: Sequence[Any], axis: int, build: Build) -> Any:
    if all(isinstance(value, np.ndarray) for value in values):
        return np.stack(values, axis)
    return like(ops.stack([plain(build.tensor(value)) for value in values], axis=axis))


@op("Scan", since=9)
def scan(
    *inputs: Any,
    body: Any,
    num_scan_inputs: int,
    scan_input_axes: list[int] | None = None,
    scan_input_directions: list[int] | None = None,
    scan_output_axes: list[int] | None = None,
    scan_output_directions: list[int] | None = None,
    build: Build,
) -> tuple[Any, ...]:
    states, series = list(inputs[:-num_scan_inputs]), inputs[-num_scan_inputs:]
    axes = [normal(axis, len(one.shape)) for axis, one in zip(scan_input_axes or [0] * 99, series, strict=False)]
    count = series[0].shape[axes[0]]
    if count is None or count > _MOST_ROUNDS:
        raise Unsupported(f"over {count or 'a free number of'} elements")
    backwards = scan_input_directions or [0] * num_scan_inputs
    rows = []
    for index in range(count):
        places = [count - 1 - index if reverse else index for reverse in backwards]
        parts = [_row(one, axis, place) for one, axis, place in zip(series, axes, places, strict=True)]
        results = build.run(body, [*states, *parts])
        states = results[: len(states)]
        rows.append(results[len(states) :])
    columns = list(zip(*rows, strict=True))
    ordered = [
        column[::-1] if reverse else column
        for column, reverse in zip(columns, scan_output_directions or [0] * len(columns), strict=True)
    ]
    where = scan_output_axes or [0] * len(columns)
    return (*states, *(_stacked(column, axis, build) for column, axis in zip(ordered, where, strict=True)))


def _row(value: Tensor | np.ndarray, axis: int, place: int) -> Any:
    if isinstance(value, np.ndarray):
        return np.asarray(value.take(place, axis))
    return like(plain(value)[tuple(place if other == axis else slice(None) for other in range(value.rank))])


@op("SequenceEmpty", since=11)
def sequence_empty(*, dtype: int | None = None) -> list[Any]:
    return []


@op("SequenceConstruct", since=11)
def sequence_construct(*inputs: Any) -> list[Any]:
    return list(inputs)


@op("SequenceInsert", since=11)
def sequence_insert(items: Any, item: Any, position: Any = None) -> list[Any]:
    place = len(items) if position is None else integers(position, "its position")[0]
    place = place + len(items) if place < 0 else place
    return [*items[:place], item, *items[place:]]


@op("SequenceErase", since=11)
def sequence_erase(items: Any, position: Any = None) -> list[Any]:
    place = len(items) - 1 if position is None else integers(position, "its position")[0] % len(items)
    return [*items[:place], *items[place + 1 :]]


@op("SequenceAt", since=11)
def sequence_at(items: Any, position: Any) -> Any:
    return items[integers(position, "its position")[0]]


@op("SequenceLength", since=11)
def sequence_length(items: Any) -> np.ndarray:
    return np.array(len(items), np.int64)


@op("ConcatFromSequence", since=11)
def concat_from_sequence(items: Any, *, axis: int, new_axis: int = 0, build: Build) -> Any:
    if new_axis:
        return _stacked(items, normal(axis, len(items[0].shape) + 1), build)
    return like(ops.concatenate([plain(build.tensor(item)) for item in items], axis=axis))


@op("SplitToSequence", since=11)
def split_to_sequence(x: Any, split: Lengths | None = None, *, axis: int = 0, keepdims: int = 1, build: Build) -> Any:
    from tightship.bridges.onnx_to_keras.operators.movement import divided
    from tightship.bridges.onnx_to_keras.operators.reshaping import squeezed

    tensor = build.tensor(x)
    place = normal(axis, tensor.rank)
    length = tensor.shape[place]
    if length is None:
        raise Unsupported("the axis it cuts is free; fix the input shapes")
    sizes = [1] * length if split is None else list(integers(split, "its lengths"))
    if split is not None and not split.shape:
        each = sizes[0]
        sizes = [min(each, length - start) for start in range(0, length, each)]
    parts = divided(tensor, place, sizes, len(sizes))
    return [squeezed(part, [place]) for part in parts] if split is None and not keepdims else list(parts)


@op("Optional", since=15)
def optional(value: Any = None, *, type: Any = None) -> Any:
    return value


@op("OptionalHasElement", since=15)
def optional_has_element(value: Any = None) -> np.ndarray:
    return np.array(value is not None)


@op("OptionalGetElement", since=15)
def optional_get_element(value: Any) -> Any:
    return value
