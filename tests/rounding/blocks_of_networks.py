"""A small block of a network, with correlated inputs, and the error that roundings of its weights make."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tightship.rounding.blocks import BlockCodes
from tightship.rounding.encoding import Encoding
from tightship.rounding.trainable import WeightPlace, outputs

WIDTH, HIDDEN = 40, 64
"""The last block of a row of `WIDTH` is not full."""

Samples = tuple[list[tuple[torch.Tensor, ...]], list[tuple[torch.Tensor, ...]]]


class Block(torch.nn.Module):
    """A gated unit on a residual stream: two matrices `[N, K]`, and one `[K, N]` as a buffer; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.gate, self.up = torch.nn.Linear(WIDTH, HIDDEN), torch.nn.Linear(WIDTH, HIDDEN, bias=False)
        self.register_buffer("down", torch.randn(HIDDEN, WIDTH, generator=generator) / HIDDEN**0.5)
        for layer in (self.gate, self.up):
            layer.weight.data = torch.randn(HIDDEN, WIDTH, generator=generator) / WIDTH**0.5
        self.gate.bias.data = 0.1 * torch.randn(HIDDEN, generator=generator)
        self.eval()

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.nn.functional.silu(self.gate(x)) * self.up(x)
        return hidden @ self.down * scale, hidden.mean(-1)

    def matrices(self) -> list[np.ndarray]:
        """The weights `[N, K]`, in the order of `names`."""
        return [self.gate.weight.detach().numpy(), self.up.weight.detach().numpy(), self.down.numpy().T]


def names() -> list[str]:
    return ["gate.weight", "up.weight", "down"]


def places(bits: int, symmetric: bool = False) -> list[WeightPlace]:
    return [WeightPlace(name, name == "down", Encoding(bits, 32, symmetric)) for name in names()]


def samples(module: torch.nn.Module, n: int, seed: int) -> Samples:
    """Inputs of few directions, as those of trained networks are, and what the module makes of them."""
    directions = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = [], []
    for _ in range(n):
        x = torch.randn(1, 24, 8, generator=generator) @ directions / 3
        x = x + 0.03 * torch.randn(1, 24, WIDTH, generator=generator)
        inputs.append((x, torch.tensor(2.0)))
        with torch.no_grad():
            targets.append(outputs(module, {}, inputs[-1]))
    return inputs, targets


def rounded_weights(codes: Mapping[str, BlockCodes]) -> dict[str, torch.Tensor]:
    """The weights that `codes` stand for, as the block keeps them."""
    weights = {}
    for name, found in codes.items():
        matrix = torch.from_numpy(found.dequantize(HIDDEN if name == "down" else WIDTH))
        weights[name] = matrix.T if name == "down" else matrix
    return weights


def relative_error(module: torch.nn.Module, codes: Mapping[str, BlockCodes], seen: Samples) -> float:
    """Squared error of the first output over its own square."""
    weights = rounded_weights(codes)
    above = below = 0.0
    with torch.no_grad():
        for given, (wanted, _) in zip(*seen, strict=True):
            above += float((outputs(module, weights, given)[0] - wanted).square().sum())
            below += float(wanted.square().sum())
    return above / below
