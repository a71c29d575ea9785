"""Elements and slices by their indices, read and written."""

from __future__ import annotations

from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op

_MODES = {"update": None, "add": "add", "sub": "add", "mul": "mul", "div": "mul", "max": "max", "min": "min"}


@op("gather", since=15)
def gather(
    x: Operand,
    indices: Operand,
    *,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,
    build: Build,
) -> Any:
    where = x.axis(axis)
    if not batch_dims:
        return build("Gather", x, build.integers(indices), axis=where)
    # [batch, before, axis, after] to [batch, axis, before, after], and back
    before = where - batch_dims
    turned = build.transpose(x, [*range(batch_dims), where, *(a for a in range(batch_dims, x.rank) if a != where)])
    found = build("GatherND", turned, build.unsqueeze(build.integers(indices), [-1]), batch_dims=batch_dims)
    if not before:
        return found
    width = indices.rank - batch_dims
    rank = x.rank - 1 + width
    order = [
        *range(batch_dims),
        *range(batch_dims + width, batch_dims + width + before),
        *range(batch_dims, batch_dims + width),
        *range(batch_dims + width + before, rank),
    ]
    return build.transpose(found, order)


@op("gather_along_axis", since=15)
def gather_along_axis(
    x: Operand, indices: Operand, *, axis: int = 0, validate_indices: bool = False, build: Build
) -> Any:
    return build("GatherElements", x, build.integers(indices), axis=axis)


@op("gather_nd", since=15)
def gather_nd(
    x: Operand, indices: Operand, *, batch_dims: int = 0, validate_indices: bool = False, build: Build
) -> Any:
    return build("GatherND", x, build.integers(indices), batch_dims=batch_dims)


def _update(updates: Operand, mode: str, build: Build) -> tuple[Any, str | None]:
    """What is scattered, and ONNX's name for how: subtracting is adding the negative, dividing multiplying."""
    if mode not in _MODES:
        raise Unsupported(f"mode {mode}")
    if mode == "sub":
        return build("Neg", updates), "add"
    if mode == "div":
        if not updates.is_float:
            raise Unsupported("a division of integers while scattering")
        return build("Reciprocal", updates), "mul"
    return updates, _MODES[mode]


@op("scatter", since=15)
def scatter(
    data: Operand,
    indices: Operand,
    updates: Operand,
    *,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
    build: Build,
) -> Any:
    values, how = _update(updates, mode, build)
    where = data.axis(axis)
    places = build.unsqueeze(build.integers(indices), [-1])
    if not where:
        return build("ScatterND", data, places, values, reduction=how)
    front = [where, *(a for a in range(data.rank) if a != where)]
    extra = indices.rank  # the updates have these axes in the place of one
    moved = [*range(where, where + extra), *range(where), *range(where + extra, updates.rank)]
    done = build("ScatterND", build.transpose(data, front), places, build.transpose(values, moved), reduction=how)
    return build.transpose(done, np.argsort(front).tolist())


@op("scatter_along_axis", since=15)
def scatter_along_axis(
    data: Operand,
    indices: Operand,
    updates: Operand,
    *,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
    build: Build,
) -> Any:
    values, how = _update(updates, mode, build)
    return build("ScatterElements", data, build.integers(indices), values, axis=axis, reduction=how)


@op("scatter_nd", since=15)
def scatter_nd(
    data: Operand,
    indices: Operand,
    updates: Operand,
    *,
    mode: str = "add",
    validate_indices: bool = False,
    build: Build,
) -> Any:
    values, how = _update(updates, mode, build)
    return build("ScatterND", data, build.integers(indices), values, reduction=how)


@op("non_zero", since=15)
def non_zero(x: Operand, *, build: Build) -> Any:
    return build.cast(build.transpose(build("NonZero", x), [1, 0]), "int32")
