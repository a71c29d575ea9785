"""Normalization over channels, axes and neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op


@op("batch_norm", since=15)
def batch_norm(
    x: Operand,
    *,
    mean: np.ndarray,
    variance: np.ndarray,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    epsilon: float = 1e-5,
    build: Build,
) -> Any:
    scale = np.ones_like(mean) if gamma is None else gamma
    shift = np.zeros_like(mean) if beta is None else beta
    return build("BatchNormalization", x, scale, shift, mean, variance, epsilon=float(epsilon))


@op("instance_norm", since=15)
def instance_norm(
    x: Operand,
    *,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    epsilon: float = 1e-5,
    build: Build,
) -> Any:
    channels = x.shape[1]
    if channels is None:
        raise Unsupported("the number of channels is not known before the model runs")
    scale = np.ones(channels, np.float32) if gamma is None else gamma
    shift = np.zeros(channels, np.float32) if beta is None else beta
    return build("InstanceNormalization", x, scale, shift, epsilon=float(epsilon))


@op("l2_norm", since=15)
def l2_norm(x: Operand, *, epsilon: float = 1e-6, build: Build) -> Any:
    """x / sqrt(sum(x^2) + epsilon) over the last three axes."""
    total = build("ReduceSumSquare", x, np.array([-3, -2, -1], np.int64), keepdims=1)
    return build("Div", x, build("Sqrt", build("Add", total, build.like(x, epsilon))))


@op("layer_norm", since=15)
def layer_norm(
    x: Operand,
    *,
    axes: Any = None,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    epsilon: float = 1e-5,
    build: Build,
) -> Any:
    where = sorted({x.axis(int(axis)) for axis in np.atleast_1d(axes)}) if axes is not None else list(range(x.rank))
    lengths = [x.shape[axis] for axis in where]
    if where == list(range(where[0], x.rank)) and (gamma is not None or None not in lengths):
        scale = np.ones([length or 1 for length in lengths], np.float32) if gamma is None else gamma
        return build("LayerNormalization", x, scale, beta, axis=where[0], epsilon=float(epsilon))
    return _by_parts(x, where, gamma, beta, epsilon, build)


def _by_parts(
    x: Operand, where: list[int], gamma: np.ndarray | None, beta: np.ndarray | None, epsilon: float, build: Build
) -> Any:
    """(x - mean) / sqrt(var + epsilon), where the axes are not the last ones."""
    axes = np.array(where, np.int64)
    centred = build("Sub", x, build("ReduceMean", x, axes, keepdims=1))
    variance = build("ReduceMean", build("Mul", centred, centred), axes, keepdims=1)
    result = build("Div", centred, build("Sqrt", build("Add", variance, build.like(x, epsilon))))
    for kind, values in (("Mul", gamma), ("Add", beta)):
        if values is not None:
            lengths = iter(values.shape)
            result = build(kind, result, values.reshape([next(lengths) if a in where else 1 for a in range(x.rank)]))
    return result


@op("local_response_norm", since=15)
def local_response_norm(
    x: Operand, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, build: Build
) -> Any:
    """x / (k + alpha / size * sum of squares)^beta, the sum over channels, one more before than behind if even."""
    if x.rank == 4 and size % 2:
        return build("LRN", x, size=size, alpha=float(alpha), beta=float(beta), bias=float(k))
    channels = x.dims[1]
    pads = np.zeros((2, x.rank), np.int64)
    pads[:, 1] = size // 2, (size - 1) // 2
    padded = build("Pad", build("Mul", x, x), pads.ravel())
    total = build("Sum", *(build.slice(padded, begin, begin + channels, 1) for begin in range(size)))
    base = build("Add", build("Mul", total, build.like(x, alpha / size)), build.like(x, k))
    return build("Div", x, build("Pow", base, build.like(x, beta)))
