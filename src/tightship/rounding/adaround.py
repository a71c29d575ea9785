"""AdaRound: each weight goes up or down to the whole number that keeps the layer's output, not the nearest one.

Nagel and others, "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tightship.core import extras
from tightship.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["AdaRoundSettings", "Layer", "adaround"]

Layer = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""A layer as a function `(x, weight) -> y`; where activations are rounded too, it (or `x`) has done so."""

_LOW, _HIGH = -0.1, 1.1
"""The sigmoid is stretched to this range and cut to 0..1, so that its ends are reached (equation 23 of the paper)."""


@dataclass(frozen=True)
class AdaRoundSettings:
    """How long and how hard to train the direction of each weight.

    One step reads one batch. After the fraction `warm_start` of the steps, `regularization` times
    `mean(1 - |2h - 1| ** beta)` drives each weight's share `h` of the way up to 0 or 1, with beta falling from
    `beta_start` to `beta_end` along a cosine. The other term of the loss is the squared error of the output over that
    of rounding to nearest.
    """

    steps: int = 500
    learning_rate: float = 0.05
    regularization: float = 2.0
    warm_start: float = 0.2
    beta_start: float = 20.0
    beta_end: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"adaround: steps must be at least 1, found {self.steps}")
        if not 0 <= self.warm_start < 1:
            raise UsageError(f"adaround: warm_start must be from 0 to below 1, found {self.warm_start}")


def adaround(
    weight: np.ndarray,
    layer: Layer,
    batches: Sequence[tuple[torch.Tensor | np.ndarray, torch.Tensor | np.ndarray]],
    *,
    scale: np.ndarray,
    axis: int = 0,
    bits: int = 4,
    settings: AdaRoundSettings | None = None,
) -> np.ndarray:
    """Return codes (int8, the shape of `weight`, within `-2**(bits-1)..2**(bits-1)-1`); the weight is code times scale.

    `weight` has any rank; `scale` `[channels]` holds one positive number per place along `axis`. `batches` are pairs of
    an input of the layer and the output wanted for it, usually that of the float network. Over all batches the result
    is never further from the outputs wanted than rounding to nearest; the same arguments give the same codes. Memory:
    about eight times the weight, and one batch. Raises `UsageError` where shapes or numbers do not fit.
    """
    torch = extras.require("torch", "adaround")
    settings = settings or AdaRoundSettings()
    _check(weight, scale, axis, bits, batches)
    pairs = [(_tensor(x), _tensor(y)) for x, y in batches]
    steps_of_weight = torch.from_numpy(_along(scale, weight.ndim, axis))
    ideal = torch.from_numpy(np.array(weight, np.float32)) / steps_of_weight
    bounds = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    nearest = ideal.round().clamp(*bounds)
    error_of_nearest = _squared_error(layer, nearest * steps_of_weight, pairs)
    if error_of_nearest == 0 or not math.isfinite(error_of_nearest):
        return _codes(nearest)
    floor = ideal.floor()
    per_batch = error_of_nearest / len(pairs)
    climb = _train(layer, floor, ideal, steps_of_weight, bounds, pairs, per_batch, settings)
    learned = (floor + (climb >= 0.5)).clamp(*bounds)
    better = _squared_error(layer, learned * steps_of_weight, pairs) < error_of_nearest
    return _codes(learned if better else nearest)


def _train(
    layer: Layer,
    floor: torch.Tensor,
    ideal: torch.Tensor,
    steps_of_weight: torch.Tensor,
    bounds: tuple[int, int],
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
    error_of_nearest: float,
    settings: AdaRoundSettings,
) -> torch.Tensor:
    """Return the share 0..1 of the way up that each weight goes."""
    import torch

    share = (ideal - floor).clamp(0.01, 0.99)
    logits = (-torch.log((_HIGH - _LOW) / (share - _LOW) - 1)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=settings.learning_rate)
    rng = np.random.default_rng(settings.seed)
    for step in range(settings.steps):
        x, y = pairs[int(rng.integers(len(pairs)))]
        with torch.enable_grad():
            climb = _rectified_sigmoid(logits)
            weight = (floor + climb).clamp(*bounds) * steps_of_weight
            loss = (layer(x, weight) - y).square().sum() / error_of_nearest
            if (beta := _beta(step, settings)) is not None:
                loss = loss + settings.regularization * (1 - (2 * climb - 1).abs().pow(beta)).mean()
            (logits.grad,) = torch.autograd.grad(loss, [logits])
        optimizer.step()
    return _rectified_sigmoid(logits.detach())


def _rectified_sigmoid(logits: torch.Tensor) -> torch.Tensor:
    return (logits.sigmoid() * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def _beta(step: int, settings: AdaRoundSettings) -> float | None:
    """Return the exponent at this step, or None during the warm start."""
    done = step / settings.steps
    if done < settings.warm_start:
        return None
    done = (done - settings.warm_start) / (1 - settings.warm_start)
    return settings.beta_end + (settings.beta_start - settings.beta_end) * 0.5 * (1 + math.cos(math.pi * done))


def _squared_error(layer: Layer, weight: torch.Tensor, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    import torch

    with torch.no_grad():
        return sum(float((layer(x, weight) - y).double().square().sum()) for x, y in pairs)


def _tensor(array: torch.Tensor | np.ndarray) -> torch.Tensor:
    import torch

    if isinstance(array, np.ndarray):
        # PyTorch warns about arrays that it could not write to, such as those of a mapped file.
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    return array


def _codes(codes: torch.Tensor) -> np.ndarray:
    import torch

    whole: np.ndarray = codes.to(torch.int8).numpy()
    return whole


def _along(scale: np.ndarray, rank: int, axis: int) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = -1
    return np.array(scale, np.float32).reshape(shape)


def _check(weight: np.ndarray, scale: np.ndarray, axis: int, bits: int, batches: Sequence[object]) -> None:
    if not 2 <= bits <= 8:
        raise UsageError(f"adaround: bits must be 2..8, found {bits}")
    if not -weight.ndim <= axis < weight.ndim:
        raise UsageError(f"adaround: a weight of shape {weight.shape} has no axis {axis}")
    if scale.shape != (weight.shape[axis],):
        raise UsageError(
            f"adaround: a weight of shape {weight.shape} needs {weight.shape[axis]} scales along axis {axis}, "
            f"found an array of shape {scale.shape}"
        )
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise UsageError("adaround: scales must be positive and finite")
    if not np.isfinite(weight).all():
        raise UsageError("adaround: the weight holds numbers that are not finite")
    if not batches:
        raise UsageError("adaround: at least one batch of (input, output) is needed, found none")
