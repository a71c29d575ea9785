"""Training of roundings: minibatches in, the best codes seen out.

Gradients are taken with respect to the rounded weights first, then carried on to what stands behind each weight one
weight at a time, so that memory holds the activations of one sample, and the rounding of one weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tightship.core.progress import Progress
from tightship.errors import DatasetError, UsageError
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.trainable import Trainee, WeightPlace, outputs, stored

if TYPE_CHECKING:
    import torch

__all__ = ["Loss", "Move", "Samples", "Schedule", "adam", "descend", "objective", "split"]

Tensors = tuple["torch.Tensor", ...]

Loss = Callable[[Tensors, Tensors], "torch.Tensor"]
"""How far the outputs of one sample are from those wanted, a scalar."""

Move = Callable[[float], None]
"""Moves all parameters by their gradients; called with the fraction 0..1 of the steps that are done."""


@dataclass(frozen=True)
class Samples:
    """Inputs of the module and the outputs wanted, sample by sample; only indexed, so they may lie on disk."""

    inputs: Sequence[Tensors]
    targets: Sequence[Tensors]

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets) or not len(self.inputs):
            raise UsageError(
                f"training roundings needs as many outputs as inputs, and one at least; found {len(self.inputs)} "
                f"inputs and {len(self.targets)} outputs"
            )


@dataclass(frozen=True)
class Schedule:
    """`steps` steps over the mean of `batch` samples each, and how many times codes are judged on the way."""

    steps: int
    batch: int
    evaluations: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "evaluations"):
            if getattr(self, name) < 1:
                raise UsageError(f"training roundings: {name} must be at least 1, found {getattr(self, name)}")


def split(n: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Return which of `n` samples are trained on and which judge, drawn at random.

    Below four samples, or where `held_out` is 0, all do both.
    """
    order = np.random.default_rng(seed).permutation(n).tolist()
    n_held = max(1, round(n * held_out)) if held_out and n >= 4 else 0
    return (order[n_held:], order[:n_held]) if n_held else (order, order)


def _mean_squared_error(targets: Sequence[Tensors], judges: Sequence[int]) -> Loss:
    """Return the squared error of all floating outputs, each output in units of its mean square over `judges`."""
    energies = [0.0] * len(targets[judges[0]])
    for judge in judges:
        for place, target in enumerate(targets[judge]):
            if target.is_floating_point():
                energies[place] += float(target.double().square().mean()) / len(judges)

    def loss(found: Tensors, wanted: Tensors) -> torch.Tensor:
        terms = [
            (ours - target).square().mean() / energy
            for ours, target, energy in zip(found, wanted, energies, strict=True)
            if energy > 0
        ]
        if not terms:
            raise DatasetError("outputs to be kept must hold floating-point numbers other than zero, found none")
        return sum(terms[1:], terms[0])

    return loss


def _divergence(found: Tensors, wanted: Tensors) -> torch.Tensor:
    """KL divergence, in nats per position, of the first output's softmax (last axis) from that of the logits wanted."""
    from torch.nn.functional import kl_div, log_softmax

    ours, teacher = (log_softmax(logits[0].float(), dim=-1).flatten(0, -2) for logits in (found, wanted))
    return kl_div(ours, teacher, log_target=True, reduction="batchmean")


def objective(name: Literal["mse", "kl"], targets: Sequence[Tensors], judges: Sequence[int]) -> Loss:
    """Return the loss of this name. Raises `UsageError` where it is neither `mse` nor `kl`."""
    if name not in ("mse", "kl"):
        raise UsageError(f"training roundings: the loss must be mse or kl, found {name!r}")
    return _mean_squared_error(targets, judges) if name == "mse" else _divergence


def adam(rated: Sequence[tuple[torch.Tensor, float]]) -> Move:
    """Return Adam for parameters with their learning rates, which fall to zero along a cosine."""
    import torch

    for _, rate in rated:
        if not rate >= 0:
            raise UsageError(f"training roundings: learning rates must be 0 or more, found {rate}")
    optimizer = torch.optim.Adam([{"params": [parameter], "lr": rate} for parameter, rate in rated])

    def move(done: float) -> None:
        for group, (_, rate) in zip(optimizer.param_groups, rated, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.step()

    return move


def descend(
    module: torch.nn.Module,
    places: Sequence[WeightPlace],
    trainees: Mapping[str, Trainee],
    start: Mapping[str, BlockCodes],
    samples: Samples,
    loss: Loss,
    move: Move,
    schedule: Schedule,
    chosen: tuple[Sequence[int], Sequence[int]],
    progress: Progress,
) -> dict[str, BlockCodes]:
    """Train and return the codes of the least loss over the judging samples, `start` among them.

    `chosen` holds the numbers of the samples to train on and of those that judge. Raises `UsageError` where the module
    is in training mode, `DatasetError` where the start's own loss is not finite.
    """
    if module.training:
        raise UsageError("training roundings needs a module in evaluation mode: call module.eval() first")
    training, judges = chosen
    best, least = dict(start), _judge(module, places, _from_codes(start), samples, loss, judges)
    if not math.isfinite(least):
        raise DatasetError(f"the loss of the weights as given must be finite, found {least}: check inputs and outputs")
    due = {math.ceil(schedule.steps * (place + 1) / schedule.evaluations) for place in range(schedule.evaluations)}
    order = _order(len(training), schedule)
    with progress.step("training roundings", schedule.steps) as advance:
        for step in range(1, schedule.steps + 1):
            batch = [training[index] for index in order[step - 1]]
            _differentiate(module, places, trainees, samples, loss, batch)
            move((step - 1) / schedule.steps)
            for trainee in trainees.values():
                trainee.confine()
            if step in due:
                codes = {name: trainee.codes() for name, trainee in trainees.items()}
                if (error := _judge(module, places, _from_codes(codes), samples, loss, judges)) < least:
                    best, least = codes, error
            advance(1)
    return best


def _order(n: int, schedule: Schedule) -> np.ndarray:
    """Return which samples each step takes, `[steps, batch]`: every sample once before any comes again."""
    rng = np.random.default_rng(schedule.seed)
    n_rounds = -(-schedule.steps * schedule.batch // n)
    drawn = np.concatenate([rng.permutation(n) for _ in range(n_rounds)])
    return drawn[: schedule.steps * schedule.batch].reshape(schedule.steps, schedule.batch)


def _from_codes(codes: Mapping[str, BlockCodes]) -> Callable[[str], torch.Tensor]:
    import torch

    def blocks(name: str) -> torch.Tensor:
        found = codes[name]
        steps = torch.from_numpy(found.codes).float() - torch.from_numpy(found.zero_points).float()[..., None]
        return steps * torch.from_numpy(found.scales)[..., None]

    return blocks


def _judge(
    module: torch.nn.Module,
    places: Sequence[WeightPlace],
    blocks: Callable[[str], torch.Tensor],
    samples: Samples,
    loss: Loss,
    judges: Sequence[int],
) -> float:
    """Return the mean loss over `judges`."""
    import torch

    with torch.no_grad():
        weights = {place.name: stored(module, place, blocks(place.name)) for place in places}
        losses = [
            float(loss(outputs(module, weights, samples.inputs[judge]), samples.targets[judge])) for judge in judges
        ]
    return sum(losses) / len(losses)


def _differentiate(
    module: torch.nn.Module,
    places: Sequence[WeightPlace],
    trainees: Mapping[str, Trainee],
    samples: Samples,
    loss: Loss,
    batch: Sequence[int],
) -> None:
    """Set the gradient of every parameter to that of the mean loss over `batch`."""
    import torch

    with torch.no_grad():
        weights = {place.name: stored(module, place, trainees[place.name].blocks()) for place in places}
    for weight in weights.values():
        weight.requires_grad_()
    with torch.enable_grad():
        for index in batch:
            error = loss(outputs(module, weights, samples.inputs[index]), samples.targets[index]) / len(batch)
            if not error.requires_grad:
                raise UsageError(f"the outputs of the module do not depend on {', '.join(sorted(weights))}")
            error.backward(inputs=list(weights.values()))
        for place in places:
            parameters = list(trainees[place.name].parameters())
            weight = stored(module, place, trainees[place.name].blocks())
            arrived = weights.pop(place.name).grad
            if arrived is None:
                arrived = torch.zeros_like(weight)
            reached = torch.autograd.grad(weight, parameters, arrived)
            for parameter, gradient in zip(parameters, reached, strict=True):
                parameter.grad = gradient
