"""Scales trained with the codes held fixed: block by block or end to end, and never for the worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.rounding.blocks_of_networks import WIDTH, Block, names, places, relative_error, samples
from tightship.errors import UsageError
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import Encoding
from tightship.rounding.scale_training import ScaleTrainingSettings, train_scales
from tightship.rounding.trainable import WeightPlace

QUICK = ScaleTrainingSettings(steps=40, learning_rate=0.02)


def start(module: Block, bits: int, symmetric: bool = False) -> dict[str, BlockCodes]:
    return {
        place.name: search_ranges(matrix, place.encoding)
        for place, matrix in zip(places(bits, symmetric), module.matrices(), strict=True)
    }


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_the_error_at_two_bits_falls_by_a_tenth_and_codes_and_zero_points_stay(symmetric: bool) -> None:
    module = Block()
    before = start(module, 2, symmetric)
    found = train_scales(module, places(2, symmetric), before, *samples(module, 12, 1), settings=QUICK)
    unseen = samples(module, 4, 2)
    assert relative_error(module, found, unseen) < 0.9 * relative_error(module, before, unseen)
    for name in names():
        np.testing.assert_array_equal(found[name].codes, before[name].codes)
        np.testing.assert_array_equal(found[name].zero_points, before[name].zero_points)
        assert found[name].scales.dtype == np.float32
        assert (np.sign(found[name].scales) == np.sign(before[name].scales)).all()


def test_logits_come_nearer_to_those_of_the_teacher() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(WIDTH, 64), torch.nn.SiLU(), torch.nn.Linear(64, 10)).eval()
    module.requires_grad_(False)
    inputs = [(3 * x,) for x in torch.randn(12, 32, WIDTH).unbind()]
    logits = [(module(*given),) for given in inputs]
    where = [WeightPlace(f"{index}.weight", False, Encoding(2, 32)) for index in (0, 2)]
    before = {place.name: search_ranges(module.get_parameter(place.name).numpy(), place.encoding) for place in where}
    found = train_scales(module, where, before, inputs[:8], logits[:8], loss="kl", settings=QUICK)
    assert divergence(module, found, inputs[8:], logits[8:]) < 0.8 * divergence(module, before, inputs[8:], logits[8:])


def divergence(module: torch.nn.Module, codes: dict[str, BlockCodes], inputs: list, logits: list) -> float:
    weights = {
        name: torch.from_numpy(found.dequantize(module.get_parameter(name).shape[1])) for name, found in codes.items()
    }
    total = 0.0
    for given, (wanted,) in zip(inputs, logits, strict=True):
        ours = torch.func.functional_call(module, weights, given).log_softmax(-1)
        teacher = wanted.log_softmax(-1)
        total += float((teacher.exp() * (teacher - ours)).sum(-1).mean())
    return total


def test_the_result_is_never_worse_than_the_start() -> None:
    module = Block()
    before = start(module, 4)
    wild = ScaleTrainingSettings(steps=1, learning_rate=5.0)
    found = train_scales(module, places(4), before, *samples(module, 4, 1), settings=wild)
    assert all(found[name] is before[name] for name in names())


def test_samples_are_read_as_they_are_needed() -> None:
    """Streams on disk are longer than memory: two samples at a time are enough."""

    class Stream:
        def __init__(self, items: list) -> None:
            self.items = items

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            assert isinstance(index, int)
            return self.items[index]

        def __iter__(self) -> object:
            raise AssertionError("the whole stream is read")

    module = Block()
    inputs, targets = (Stream(items) for items in samples(module, 5, 1))
    before = start(module, 2)
    found = train_scales(module, places(2), before, inputs, targets, settings=ScaleTrainingSettings(steps=4))
    assert found.keys() == before.keys()


def test_the_same_seed_gives_the_same_scales() -> None:
    module = Block()
    short = ScaleTrainingSettings(steps=6)
    first, again = (
        train_scales(module, places(2), start(module, 2), *samples(module, 4, 1), settings=short) for _ in range(2)
    )
    for name in names():
        np.testing.assert_array_equal(first[name].scales, again[name].scales)


def test_arguments_that_do_not_fit_are_refused() -> None:
    module = Block()
    inputs, targets = samples(module, 2, 1)
    with pytest.raises(UsageError, match="must be mse or kl, found 'mae'"):
        train_scales(module, places(4), start(module, 4), inputs, targets, loss="mae")
    with pytest.raises(UsageError, match="learning rates must be 0 or more"):
        wrong = ScaleTrainingSettings(learning_rate=-1)
        train_scales(module, places(4), start(module, 4), inputs, targets, settings=wrong)
    with pytest.raises(UsageError, match=r"do not depend on gate\.weight"):
        constant = [torch.zeros(1, 24, WIDTH), torch.tensor(0.0)]
        only = places(4)[:1]
        train_scales(Unused(), only, {"gate.weight": start(module, 4)["gate.weight"]}, [tuple(constant)], targets[:1])


class Unused(Block):
    """A block whose output comes from one matrix alone."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + scale, x.mean(-1)
