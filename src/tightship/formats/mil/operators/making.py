"""Tensors made of numbers, and of chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op


@op("fill", since=15)
def fill(shape: Operand, *, value: Any = 0.0, build: Build) -> Any:
    return build("Expand", np.array(value, build.types[0].carrier), build.integers(shape))


@op("fill_like", since=16)
def fill_like(ref_tensor: Operand, *, value: Any = 0.0, build: Build) -> Any:
    return build("Expand", np.array(value, build.types[0].carrier), build.shape(ref_tensor))


@op("range_1d", since=15)
def range_1d(end: Operand, start: Operand, step: Operand, *, build: Build) -> Any:
    return build("Range", start, end, step)


@op("one_hot", since=15)
def one_hot(
    indices: Operand,
    one_hot_vector_size: Operand,
    *,
    axis: int = -1,
    on_value: Any = 1,
    off_value: Any = 0,
    build: Build,
) -> Any:
    """By comparison with 0, 1, ...: an index out of range has no place, where ONNX's operator counts from the end."""
    zero, one = np.array(0, np.int64), np.array(1, np.int64)
    size = one_hot_vector_size
    numbers: Any = (
        np.arange(int(size.known), dtype=np.int64)
        if size.known is not None
        else build("Range", zero, build.reshape(build.integers(size), []), one)
    )
    where = axis + indices.rank + 1 if axis < 0 else axis
    line = build.reshape(numbers, [-1, *[1] * (indices.rank - where)])
    hit = build("Equal", build.unsqueeze(build.integers(indices), [where]), line)
    dtype = build.types[0].carrier
    if dtype == np.bool_:
        return build("Where", hit, np.array(bool(on_value)), np.array(bool(off_value)))
    return build("Where", hit, np.array(on_value, dtype), np.array(off_value, dtype))


def _seed(seed: int) -> float | None:
    return float(seed) if seed >= 0 else None


def _random(kind: str, shape: Operand, seed: int, build: Build, **attributes: float) -> Any:
    if shape.known is not None:
        return build(kind, shape=shape.known.astype(int).tolist(), seed=_seed(seed), dtype=1, **attributes)
    zeros = build("Expand", np.array(0, np.float32), build.integers(shape))
    return build(f"{kind}Like", zeros, seed=_seed(seed), dtype=1, **attributes)


@op("random_normal", since=15)
def random_normal(shape: Operand, *, mean: float = 0.0, stddev: float = 1.0, seed: int = -1, build: Build) -> Any:
    return _random("RandomNormal", shape, seed, build, mean=float(mean), scale=float(stddev))


@op("random_uniform", since=15)
def random_uniform(shape: Operand, *, low: float = 0.0, high: float = 1.0, seed: int = -1, build: Build) -> Any:
    return _random("RandomUniform", shape, seed, build, low=float(low), high=float(high))


@op("random_bernoulli", since=15)
def random_bernoulli(shape: Operand, *, prob: float = 0.5, seed: int = -1, build: Build) -> Any:
    drawn = _random("RandomUniform", shape, seed, build, low=0.0, high=1.0)
    return build.cast(build("Less", drawn, np.array(prob, np.float32)), "float32")


@op("random_categorical", since=15)
def random_categorical(x: Operand, *, mode: str = "logits", size: int = 1, seed: int = -1, build: Build) -> Any:
    """Drawn with ONNX's Multinomial, which takes matrices of logarithms."""
    if mode not in ("logits", "probs"):
        raise Unsupported(f"mode {mode}")
    logits: Any = build("Log", x) if mode == "probs" else x
    if x.rank != 2:
        logits = build.reshape(logits, [-1, x.dims[-1]])
    drawn = build.cast(build("Multinomial", logits, sample_size=size, seed=_seed(seed), dtype=6), "float32")
    return drawn if x.rank == 2 else build.reshape(drawn, [*x.dims[:-1], size])
