"""Random numbers and dropout. A seed of ONNX names no generator, so the numbers are torch's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.table import OPERATORS


def seeded(seed: float | None) -> torch.Generator | None:
    """A generator of its own where the node has a seed."""
    return None if seed is None else torch.Generator().manual_seed(int(seed))


@OPERATORS.op("Dropout", 12)
def dropout(
    x: Tensor, ratio: float | None = None, training_mode: bool | None = None, *, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """Nothing, unless the node itself says that it trains; gives the mask of what stays, too."""
    ratio = 0.5 if ratio is None else ratio
    if not training_mode or ratio == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    mask = torch.rand(x.shape, generator=seeded(seed)) >= ratio
    return x * mask / (1 - ratio), mask


@OPERATORS.op("Dropout", 7)
def dropout_7(x: Tensor, *, ratio: float = 0.5) -> tuple[Tensor, Tensor]:
    return x, torch.ones_like(x, dtype=torch.bool)


@OPERATORS.op("Bernoulli", 15)
def bernoulli(x: Tensor, *, dtype: torch.dtype | None = None, seed: float | None = None) -> Tensor:
    return torch.bernoulli(x, generator=seeded(seed)).to(dtype or x.dtype)


@OPERATORS.op("RandomNormal", 1)
def random_normal(
    *,
    dtype: torch.dtype = torch.float32,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    shape: list[int],
) -> Tensor:
    return (torch.randn(shape, generator=seeded(seed)) * scale + mean).to(dtype)


@OPERATORS.op("RandomNormalLike", 1)
def random_normal_like(
    x: Tensor,
    *,
    dtype: torch.dtype | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
) -> Tensor:
    return (torch.randn(x.shape, generator=seeded(seed)) * scale + mean).to(dtype or x.dtype)


@OPERATORS.op("RandomUniform", 1)
def random_uniform(
    *,
    dtype: torch.dtype = torch.float32,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    shape: list[int],
) -> Tensor:
    return (torch.rand(shape, generator=seeded(seed)) * (high - low) + low).to(dtype)


@OPERATORS.op("RandomUniformLike", 1)
def random_uniform_like(
    x: Tensor,
    *,
    dtype: torch.dtype | None = None,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
) -> Tensor:
    return (torch.rand(x.shape, generator=seeded(seed)) * (high - low) + low).to(dtype or x.dtype)


@OPERATORS.op("Multinomial", 7)
def multinomial(
    x: Tensor, *, dtype: torch.dtype = torch.int32, sample_size: int = 1, seed: float | None = None
) -> Tensor:
    """Draw class indices with replacement, from unnormalized log probabilities `[batch, classes]`."""
    return torch.multinomial(functional.softmax(x, -1), sample_size, True, generator=seeded(seed)).to(dtype)
