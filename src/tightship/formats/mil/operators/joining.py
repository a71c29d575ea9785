"""Tensors put together, taken apart, repeated and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@op("concat", since=15)
def concat(values: Sequence[Operand], *, axis: int, interleave: bool = False, build: Build) -> Any:
    """Interleaved, element after element of each; scalars become a vector."""
    first = values[0]
    if not first.rank:
        return build("Concat", *(build.unsqueeze(value, [0]) for value in values), axis=0)
    if not interleave:
        return build("Concat", *values, axis=axis)
    where = first.axis(axis)
    lengths = list(first.dims)
    stacked = build("Concat", *(build.unsqueeze(value, [where + 1]) for value in values), axis=where + 1)
    lengths[where] *= len(values)
    return build.reshape(stacked, lengths)


@op("stack", since=15)
def stack(values: Sequence[Operand], *, axis: int, build: Build) -> Any:
    return build("Concat", *(build.unsqueeze(value, [axis]) for value in values), axis=axis)


@op("split", since=15)
def split(x: Operand, *, axis: int, num_splits: int | None = None, split_sizes: Any = None, build: Build) -> Any:
    if split_sizes is not None:
        sizes = np.atleast_1d(np.asarray(split_sizes, np.int64))
        return build.several("Split", len(sizes), x, sizes, axis=axis)
    if num_splits is None:
        raise Unsupported("neither the number nor the sizes of its parts")
    if num_splits != len(build.types):
        raise Unsupported(f"{num_splits} parts and {len(build.types)} outputs")
    return build.several("Split", num_splits, x, axis=axis, num_outputs=num_splits)


@op("tile", since=15)
def tile(x: Operand, reps: Operand, *, build: Build) -> Any:
    return build("Tile", x, build.integers(reps))


@op("pad", since=15)
def pad(x: Operand, pad: Operand, *, mode: str = "constant", constant_val: float = 0.0, build: Build) -> Any:
    """Pairs for the last axes, which ONNX wants as all beginnings and then all ends."""
    if mode not in _MODES:
        raise Unsupported(f"mode {mode}")
    fill = build.like(x, constant_val) if mode == "constant" else None
    if pad.known is not None:
        pairs = np.zeros((x.rank, 2), np.int64)
        if pad.known.size:
            pairs[-(pad.known.size // 2) :] = pad.known.reshape(-1, 2)
        return build("Pad", x, pairs.T.ravel(), fill, mode=_MODES[mode])
    turned = build.transpose(build.reshape(build.integers(pad), [-1, 2]), [1, 0])
    return build("Pad", x, build.reshape(turned, [-1]), fill, mode=_MODES[mode])
