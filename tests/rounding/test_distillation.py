"""Distillation: codes and scales of a network trained until its logits are the float ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tightship.errors import UsageError
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.clip import search_ranges
from tightship.rounding.distillation import DistillationSettings, distill
from tightship.rounding.encoding import Encoding
from tightship.rounding.trainable import WeightPlace

QUICK = DistillationSettings(steps=60, learning_rate=0.02)

N_TOKENS, WIDTH = 24, 32

Streams = tuple[list[tuple[torch.Tensor]], list[tuple[torch.Tensor]]]


class Network(torch.nn.Module):
    """Token ids `[batch, length]` to logits `[batch, length, N_TOKENS]`, by way of a running mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(N_TOKENS, WIDTH)
        self.hidden, self.head = torch.nn.Linear(WIDTH, 64), torch.nn.Linear(64, N_TOKENS)
        for layer in (self.hidden, self.head):
            layer.weight.data *= 3
        self.requires_grad_(False).eval()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        mixed = x + x.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        logits: torch.Tensor = self.head(torch.nn.functional.silu(self.hidden(mixed)))
        return logits


def places(bits: int, symmetric: bool = False) -> list[WeightPlace]:
    names = ("hidden.weight", "head.weight", "embedding.weight")
    return [WeightPlace(name, False, Encoding(bits, 32, symmetric)) for name in names]


def start(module: Network, bits: int, symmetric: bool = False) -> dict[str, BlockCodes]:
    return {
        place.name: search_ranges(module.get_parameter(place.name).numpy(), place.encoding)
        for place in places(bits, symmetric)
    }


def streams(module: Network, n: int, seed: int) -> Streams:
    ids = torch.randint(N_TOKENS, (n, 2, 16), generator=torch.Generator().manual_seed(seed))
    return [(row,) for row in ids], [(module(row),) for row in ids]


def divergence(module: Network, codes: dict[str, BlockCodes], seen: Streams) -> float:
    weights = {
        name: torch.from_numpy(found.dequantize(module.get_parameter(name).shape[1])) for name, found in codes.items()
    }
    total = 0.0
    for given, (wanted,) in zip(*seen, strict=True):
        ours = torch.func.functional_call(module, weights, given).log_softmax(-1)
        teacher = wanted.log_softmax(-1)
        total += float((teacher.exp() * (teacher - ours)).sum(-1).mean())
    return total / len(seen[0])


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_the_divergence_on_text_that_was_not_seen_at_least_halves_at_two_bits(symmetric: bool) -> None:
    module = Network()
    before = start(module, 2, symmetric)
    found = distill(module, places(2, symmetric), before, *streams(module, 24, 1), settings=QUICK)
    unseen = streams(module, 8, 2)
    assert divergence(module, found, unseen) < 0.5 * divergence(module, before, unseen)
    for name, codes in found.items():
        assert codes.codes.max() <= 3
        np.testing.assert_array_equal(codes.zero_points, before[name].zero_points)
        assert (codes.codes != before[name].codes).any()


def test_training_that_goes_nowhere_returns_the_start_bit_for_bit() -> None:
    module = Network()
    before = start(module, 2)
    still = DistillationSettings(steps=2, learning_rate=0.0, scale_learning_rate=0.0)
    found = distill(module, places(2), before, *streams(module, 4, 1), settings=still)
    for name, codes in found.items():
        np.testing.assert_array_equal(codes.codes, before[name].codes)
        np.testing.assert_array_equal(codes.scales, before[name].scales)


def test_the_result_is_never_worse_than_the_start() -> None:
    module = Network()
    before = start(module, 4)
    wild = DistillationSettings(steps=1, learning_rate=50.0)
    found = distill(module, places(4), before, *streams(module, 4, 1), settings=wild)
    assert all(found[name] is codes for name, codes in before.items())


def test_the_same_seed_gives_the_same_codes_and_the_module_stays() -> None:
    module = Network()
    kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    short = DistillationSettings(steps=8, learning_rate=0.1)
    first, again = (
        distill(module, places(2), start(module, 2), *streams(module, 6, 1), settings=short) for _ in range(2)
    )
    for name, codes in first.items():
        np.testing.assert_array_equal(codes.codes, again[name].codes)
        np.testing.assert_array_equal(codes.scales, again[name].scales)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in module.state_dict().items())


def test_arguments_that_do_not_fit_are_refused() -> None:
    module = Network()
    inputs, logits = streams(module, 2, 1)
    with pytest.raises(UsageError, match="evaluations must be at least 1, found 0"):
        distill(module, places(2), start(module, 2), inputs, logits, settings=DistillationSettings(evaluations=0))
    with pytest.raises(UsageError, match="found 2 inputs and 1 outputs"):
        distill(module, places(2), start(module, 2), inputs, logits[:1])
