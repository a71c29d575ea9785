"""Steps of optimizers (ai.onnx.preview.training): new weights and states of weights, gradients and states."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS


def groups(tensors: tuple[Tensor, ...], n_kinds: int) -> list[tuple[Tensor, ...]]:
    """Weights, gradients and states, all of one kind together, as one tuple per weight."""
    each = len(tensors) // n_kinds
    return list(zip(*(tensors[kind * each : (kind + 1) * each] for kind in range(n_kinds)), strict=True))


def by_kind(results: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """One tuple per weight as all results of one kind together."""
    return tuple(tensor for kind in zip(*results, strict=True) for tensor in kind)


@OPERATORS.op("Adagrad", 1, domain="ai.onnx.preview.training")
def adagrad(
    rate: Tensor,
    step: Tensor,
    *tensors: Tensor,
    decay_factor: float = 0.0,
    epsilon: float = 9.999999974752427e-07,
    norm_coefficient: float = 0.0,
) -> tuple[Tensor, ...]:
    rate = rate / (1 + step * decay_factor)
    results = []
    for x, gradient, squares in groups(tensors, 3):
        gradient = norm_coefficient * x + gradient
        squares = squares + gradient * gradient
        results.append((x - rate * gradient / (torch.sqrt(squares) + epsilon), squares))
    return by_kind(results)


@OPERATORS.op("Adam", 1, domain="ai.onnx.preview.training")
def adam(
    rate: Tensor,
    step: Tensor,
    *tensors: Tensor,
    alpha: float = 0.8999999761581421,
    beta: float = 0.9990000128746033,
    epsilon: float = 9.999999974752427e-07,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[Tensor, ...]:
    if step > 0:
        rate = rate * torch.sqrt(1 - torch.tensor(beta) ** step) / (1 - torch.tensor(alpha) ** step)
    results = []
    for x, gradient, mean, squares in groups(tensors, 4):
        gradient = norm_coefficient * x + gradient
        mean = alpha * mean + (1 - alpha) * gradient
        squares = beta * squares + (1 - beta) * gradient * gradient
        moved = x - rate * mean / (torch.sqrt(squares) + epsilon)
        results.append(((1 - norm_coefficient_post) * moved, mean, squares))
    return by_kind(results)


@OPERATORS.op("Momentum", 1, domain="ai.onnx.preview.training")
def momentum(
    rate: Tensor, step: Tensor, *tensors: Tensor, alpha: float, beta: float, mode: str, norm_coefficient: float
) -> tuple[Tensor, ...]:
    results = []
    for x, gradient, velocity in groups(tensors, 3):
        gradient = norm_coefficient * x + gradient
        velocity = alpha * velocity + (gradient if step == 0 else beta * gradient)
        change = gradient + alpha * velocity if mode == "nesterov" else velocity
        results.append((x - rate * change, velocity))
    return by_kind(results)
