"""Normalizations whose scale is computed; constant ones become layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.table import OPERATORS


@OPERATORS.op("BatchNormalization", 9)
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize channels, in training mode by the batch; gives the running statistics, too (biased variance)."""
    if not training_mode:
        return functional.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon), mean, var
    dims = [axis for axis in range(x.ndim) if axis != 1]
    current, spread = x.mean(dims), x.var(dims, correction=0)
    y = functional.batch_norm(x, current, spread, scale, bias, False, 0.0, epsilon)
    return y, mean * momentum + current * (1 - momentum), var * momentum + spread * (1 - momentum)


@OPERATORS.op("BatchNormalization", 7)
def batch_normalization_7(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
) -> tuple[Tensor, ...]:
    if not spatial:
        return ((x - mean) / torch.sqrt(var + epsilon) * scale + bias,)
    return batch_normalization(x, scale, bias, mean, var, epsilon=epsilon)


@OPERATORS.op("InstanceNormalization", 6)
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@OPERATORS.op("LayerNormalization", 17)
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    n_outputs: int = 1,
) -> tuple[Tensor, ...]:
    """Normalize over all axes from `axis` on; gives the mean and inverse deviation, too, if asked for."""
    dims = list(range(axis % x.ndim, x.ndim))
    shape = [x.shape[dim] for dim in dims]
    scale = scale.expand(shape)
    bias = None if bias is None else bias.expand(shape)
    y = functional.layer_norm(x, shape, scale, bias, epsilon)
    if n_outputs == 1:
        return (y,)
    wide = x.float() if stash_type == 1 else x
    variance = wide.var(dims, keepdim=True, correction=0)
    return y, wide.mean(dims, keepdim=True), torch.rsqrt(variance + epsilon)


@OPERATORS.op("RMSNormalization", 23)
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    wide = x.float() if stash_type == 1 else x
    dims = list(range(axis % x.ndim, x.ndim))
    return (wide * torch.rsqrt((wide * wide).mean(dims, keepdim=True) + epsilon)).to(x.dtype) * scale


@OPERATORS.op("GroupNormalization", 21)
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1
) -> Tensor:
    return functional.group_norm(x, num_groups, scale, bias, epsilon)


@OPERATORS.op("GroupNormalization", 18)
def group_normalization_18(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int) -> Tensor:
    """Before opset 21 scale and bias were one per group."""
    each = x.shape[1] // num_groups
    return functional.group_norm(x, num_groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


@OPERATORS.op("LRN", 1)
def local_response_normalization(
    x: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int
) -> Tensor:
    """x / (bias + alpha / size * sum of squares over neighbouring channels) ** beta"""
    before = (size - 1) // 2
    squares = (x * x).movedim(1, -1)
    padded = functional.pad(squares, [before, size - 1 - before])
    sums = padded.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / (bias + alpha / size * sums) ** beta


@OPERATORS.op("LpNormalization", 1)
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = x.abs().sum(axis, keepdim=True) if p == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@OPERATORS.op("MeanVarianceNormalization", 9)
def mean_variance_normalization(x: Tensor, *, axes: list[int] = [0, 2, 3]) -> Tensor:  # noqa: B006
    centred = x - x.mean(axes, keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(axes, keepdim=True)) + 1e-9)
