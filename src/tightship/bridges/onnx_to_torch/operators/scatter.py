"""Writing items into a copy of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.operators.indexing import positive
from tightship.bridges.onnx_to_torch.table import OPERATORS

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""Names of reductions in ONNX and in torch."""


@OPERATORS.op("ScatterElements", 11)
def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    indices = positive(indices.long(), data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, indices, updates)
    return data.scatter_reduce(axis, indices, updates, REDUCTIONS[reduction])


@OPERATORS.op("Scatter", 9)
def scatter(data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0) -> Tensor:
    return scatter_elements(data, indices, updates, axis=axis)


@OPERATORS.op("ScatterND", 11)
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Write slices at the places that the last axis of `indices` `[..., depth]` names."""
    depth = indices.shape[-1]
    keys = tuple(positive(indices[..., k].long(), data.shape[k]) for k in range(depth))
    if reduction == "none":
        return torch.index_put(data, keys, updates)
    if reduction == "add":
        return torch.index_put(data, keys, updates, accumulate=True)
    place = torch.zeros_like(keys[0])
    for key, n in zip(keys, data.shape, strict=False):
        place = place * n + key
    inner = data.shape[depth:]
    flat = data.reshape(-1, *inner)
    index = place.reshape(-1, *(1,) * len(inner)).expand(-1, *inner)
    written = flat.scatter_reduce(0, index, updates.reshape(-1, *inner), REDUCTIONS[reduction])
    return written.reshape(data.shape)


@OPERATORS.op("TensorScatter", 24)
def tensor_scatter(
    past: Tensor, update: Tensor, write_indices: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """Write new steps into a cache, from the step on that each item of the batch is at; `circular` starts over."""
    axis = axis % past.ndim
    steps = torch.arange(update.shape[axis]).unsqueeze(0)
    if write_indices is not None:
        steps = steps + write_indices.reshape(-1, 1)
    if mode == "circular":
        steps = steps % past.shape[axis]
    shape = [-1 if k in (0, axis) else 1 for k in range(past.ndim)]
    shape[0], shape[axis] = steps.shape
    return past.scatter(axis, steps.reshape(shape).expand(update.shape), update)
