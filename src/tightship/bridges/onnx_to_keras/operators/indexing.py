"""Elements picked and placed by index."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import WEIGHT_ELEMENTS, Build
from tightship.bridges.onnx_to_keras.layout import like, normal, plain, without
from tightship.bridges.onnx_to_keras.operators.arithmetic import kept
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.shapes import integers
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported, dtype_of, rank_of, static

op = OPERATORS.op

Operand = Tensor | np.ndarray

_REDUCTIONS = {"none": None, "add": "add", "mul": "mul", "max": "max", "min": "min"}


@op("Gather")
def gather(data: Operand, indices: Operand, *, axis: int = 0, build: Build) -> Tensor:
    place = normal(axis, rank_of(data))
    if isinstance(data, np.ndarray) and isinstance(indices, Tensor) and place == 0 and _is_table(data):
        return _embedded(data, indices, build)
    if isinstance(data, Tensor) and isinstance(indices, np.ndarray) and indices.ndim < 2:
        return _picked(data, indices, place)
    table, where = build.straight(data, indices)
    return like(ops.take(table, where, axis=place))


def _is_table(data: np.ndarray) -> bool:
    return data.ndim == 2 and data.size >= WEIGHT_ELEMENTS and data.dtype.name in ("float32", "float16", "float64")


def _embedded(data: np.ndarray, indices: Tensor, build: Build) -> Tensor:
    result = build.layer(
        layers.Embedding,
        plain(indices),
        [data],
        input_dim=data.shape[0],
        output_dim=data.shape[1],
        dtype=data.dtype.name,
    )
    return like(result)


def _picked(data: Tensor, indices: np.ndarray, axis: int) -> Tensor:
    place = data.axes[axis]
    if indices.ndim == 0:
        key = tuple(int(indices) if other == place else slice(None) for other in range(data.rank))
        return Tensor(data.value[key], without(data.axes, [axis]))
    return Tensor(ops.take(data.value, indices.astype(np.int32), axis=place), data.axes)


@op("GatherElements", since=11)
def gather_elements(data: Operand, indices: Operand, *, axis: int = 0, build: Build) -> Tensor:
    table, where = plain(build.tensor(data)), plain(build.tensor(indices))
    place = normal(axis, rank_of(data))
    length = _known(table, place)
    where = ops.where(ops.less(where, 0), plus(where, length), where)
    # Other axes of the indices may be shorter than those of the data.
    key = tuple(slice(None) if other == place else slice(0, where.shape[other]) for other in range(len(table.shape)))
    return like(ops.take_along_axis(table[key], where, axis=place))


def _known(table: Any, place: int) -> int:
    if table.shape[place] is None:
        raise Unsupported("its axis is free; fix the input shapes")
    return int(table.shape[place])


@op("GatherND", since=11)
def gather_nd(data: Operand, indices: Operand, *, batch_dims: int = 0, build: Build) -> Tensor:
    table, where = plain(build.tensor(data)), plain(build.tensor(indices))
    depth, rest = where.shape[-1], table.shape[batch_dims + where.shape[-1] :]
    # Only the first of the indexed axes may be free: the others tell how far apart its rows lie.
    inner = static(table.shape[batch_dims + 1 : batch_dims + depth], "the data")
    first = table.shape[batch_dims]
    steps = np.array([int(np.prod(inner[place:])) for place in range(depth)], str(where.dtype))
    if first is not None:
        where = ops.where(ops.less(where, 0), plus(where, np.array((first, *inner), str(where.dtype))), where)
    flat = ops.sum(ops.multiply(where, steps), axis=-1)
    rows = tuple(-1 if length is None else length for length in rest)
    if rows.count(-1) + (first is None) > 1:
        raise Unsupported(f"the data of shape {list(table.shape)} is free; fix the input shapes")
    if not batch_dims:
        count = -1 if first is None else first * int(steps[0])
        return like(ops.take(ops.reshape(table, (count, *rows)), flat, axis=0))
    return _gathered_in_batches(table, flat, static(table.shape, "the data"), batch_dims, depth)


def _gathered_in_batches(table: Any, flat: Any, shape: tuple[int, ...], batch_dims: int, depth: int) -> Tensor:
    batch, inner = (int(np.prod(part)) for part in (shape[:batch_dims], shape[batch_dims : batch_dims + depth]))
    rest, index_shape = shape[batch_dims + depth :], static(flat.shape, "the indices")
    first = (np.arange(batch) * inner).reshape(batch, 1).astype(str(flat.dtype))
    places = plus(ops.reshape(flat, (batch, -1)), first)
    return like(
        ops.reshape(ops.take(ops.reshape(table, (batch * inner, *rest)), places, axis=0), (*index_shape, *rest))
    )


@op("ScatterND", since=11)
def scatter_nd(data: Operand, indices: Operand, updates: Operand, *, reduction: str = "none", build: Build) -> Tensor:
    table, where, values = (plain(build.tensor(value)) for value in (data, indices, updates))
    depth = where.shape[-1]
    lengths = static(table.shape[:depth], "the data")
    where = ops.where(ops.less(where, 0), plus(where, np.array(lengths, where.dtype)), where)
    where = ops.reshape(where, (-1, depth))
    values = ops.reshape(values, (-1, *static(table.shape[depth:], "the data")))
    return like(kept(dtype_of(data), ops.scatter_update(table, where, values, _REDUCTIONS[reduction])))


@op("ScatterElements", since=11)
def scatter_elements(
    data: Operand, indices: Operand, updates: Operand, *, axis: int = 0, reduction: str = "none", build: Build
) -> Tensor:
    table, where, values = (plain(build.tensor(value)) for value in (data, indices, updates))
    place, shape = normal(axis, len(table.shape)), static(where.shape, "the indices")
    where = ops.where(ops.less(where, 0), plus(where, _known(table, place)), where)
    grids = np.indices(shape)
    parts = [where if other == place else grids[other].astype(str(where.dtype)) for other in range(len(shape))]
    full = ops.reshape(ops.stack(parts, axis=-1), (-1, len(shape)))
    flat = ops.reshape(values, (-1,))
    return like(kept(dtype_of(data), ops.scatter_update(table, full, flat, _REDUCTIONS[reduction])))


@op("Scatter", since=9)
def scatter(data: Operand, indices: Operand, updates: Operand, *, axis: int = 0, build: Build) -> Tensor:
    return scatter_elements(data, indices, updates, axis=axis, build=build)


@op("OneHot", since=9)
def one_hot(indices: Operand, depth: Any, values: Operand, *, axis: int = -1, build: Build) -> Tensor:
    count = integers(depth, "its depth")[0]
    where = plain(build.tensor(indices))
    place = normal(axis, len(where.shape) + 1)
    where = ops.cast(where, "int64")
    where = ops.where(ops.less(where, 0), plus(where, count), where)
    flags = ops.one_hot(where, count, axis=-1 if place == len(where.shape) else place, dtype="float32")
    off, on = (
        (values[0:1], values[1:2])
        if isinstance(values, np.ndarray)
        else (values.value[(slice(0, 1),)], values.value[(slice(1, 2),)])
    )
    return like(ops.where(ops.greater(flags, 0.5), on, off))


@op("Trilu", since=14)
def trilu(x: Tensor, k: Any = None, *, upper: int = 1) -> Tensor:
    shift = 0 if k is None else integers(k, "its k")[0]
    rows, columns = static(x.shape[-2:], "a triangle")
    keep = np.triu(np.ones((rows, columns), bool), shift) if upper else np.tril(np.ones((rows, columns), bool), shift)
    return like(ops.where(keep, plain(x), np.zeros((1,) * x.rank, x.dtype)))


@op("EyeLike", since=9)
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Any:
    from tightship.bridges.onnx_to_keras.operators.casting import keras_type

    rows, columns = static(x.shape, "the shape of an identity matrix")
    return np.eye(rows, columns, k).astype(x.dtype if dtype is None else keras_type(dtype))


@op("ReverseSequence", since=10)
def reverse_sequence(
    x: Tensor, sequence_lens: Operand, *, batch_axis: int = 1, time_axis: int = 0, build: Build
) -> Tensor:
    order = (batch_axis, time_axis, *range(2, x.rank))
    value = ops.transpose(plain(x), order)
    length = _known(value, 1)
    ends = ops.reshape(ops.cast(plain(build.tensor(sequence_lens)), "int32"), (-1, 1))
    places = np.arange(length, dtype=np.int32).reshape(1, -1)
    where = ops.where(ops.less(places, ends), ops.subtract(ops.subtract(ends, 1), places), places)
    where = ops.reshape(where, (-1, length, *(1,) * (x.rank - 2)))
    if x.rank > 2:
        where = ops.broadcast_to(where, static(value.shape, "the data"))
    return like(ops.transpose(ops.take_along_axis(value, where, axis=1), tuple(np.argsort(order).tolist())))


@op("Compress", since=9)
def compress(x: Operand, condition: Operand, *, axis: int | None = None, build: Build) -> Tensor:
    if not isinstance(condition, np.ndarray):
        raise Unsupported("the length of its result depends on data")
    where = np.flatnonzero(condition)
    tensor = build.tensor(x)
    if axis is None:
        return like(ops.take(ops.reshape(plain(tensor), (-1,)), where.astype(np.int32), axis=0))
    return _picked(tensor, where, normal(axis, tensor.rank))


@op("TensorScatter", since=24)
def tensor_scatter(
    past: Operand, update: Operand, starts: Operand | None = None, *, axis: int = -2, mode: str = "linear", build: Build
) -> Tensor:
    cache, new = plain(build.tensor(past)), plain(build.tensor(update))
    place = normal(axis, len(cache.shape))
    shape, count = static(cache.shape, "the cache"), static(new.shape, "the update")[place]
    first = np.zeros(shape[0], np.int64) if starts is None else plain(build.tensor(starts))
    # For every place of the cache: which row of the update belongs there, if any.
    rows = ops.subtract(np.arange(shape[place]).reshape(1, -1), ops.expand_dims(first, -1))
    rows = ops.mod(rows, shape[place]) if mode == "circular" else rows
    inside = ops.logical_and(ops.greater_equal(rows, 0), ops.less(rows, count))
    around = tuple(1 if other not in (0, place) else length for other, length in enumerate(shape))
    where = ops.broadcast_to(ops.reshape(ops.clip(rows, 0, count - 1), around), shape)
    return like(ops.where(ops.reshape(inside, around), ops.take_along_axis(new, where, axis=place), cache))
