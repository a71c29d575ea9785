"""SignRound: a block's output is kept by roundings trained together, from any start, and never gets worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.rounding.blocks_of_networks import Block, names, places, relative_error, samples
from tightship.errors import DatasetError, UsageError
from tightship.rounding.blocks import BlockCodes, quantize_blocks
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import Encoding
from tightship.rounding.signround import SignRoundSettings, signround

QUICK = SignRoundSettings(steps=40)


def clipped(module: Block, bits: int, symmetric: bool = False) -> dict[str, BlockCodes]:
    return {
        place.name: search_ranges(matrix, place.encoding)
        for place, matrix in zip(places(bits, symmetric), module.matrices(), strict=True)
    }


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize(("bits", "fraction"), [(2, 0.6), (4, 0.75)])
def test_the_error_on_inputs_that_were_not_seen_falls_well_below_that_of_the_clip_search(
    bits: int, fraction: float, symmetric: bool
) -> None:
    module = Block()
    found = signround(module, places(bits, symmetric), *samples(module, 12, 1), settings=QUICK)
    unseen = samples(module, 4, 2)
    before = relative_error(module, clipped(module, bits, symmetric), unseen)
    assert relative_error(module, found, unseen) < fraction * before


def test_codes_fit_their_bits_and_symmetric_ones_keep_their_zero_point() -> None:
    module = Block()
    for symmetric in (False, True):
        for codes in signround(module, places(2, symmetric), *samples(module, 4, 1), settings=QUICK).values():
            assert codes.codes.dtype == codes.zero_points.dtype == np.uint8
            assert codes.scales.dtype == np.float32
            assert codes.codes.max() <= 3
            assert codes.zero_points.max() <= 3
            assert not symmetric or (codes.zero_points == 2).all()


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_training_that_goes_nowhere_returns_the_start_bit_for_bit(symmetric: bool) -> None:
    module = Block()
    start = clipped(module, 4, symmetric)
    still = SignRoundSettings(steps=2, learning_rate=0.0, range_learning_rate=0.0)
    found = signround(module, places(4, symmetric), *samples(module, 4, 1), start=start, settings=still)
    for name in names():
        np.testing.assert_array_equal(found[name].codes, start[name].codes)
        np.testing.assert_array_equal(found[name].scales, start[name].scales)
        np.testing.assert_array_equal(found[name].zero_points, start[name].zero_points)


def test_the_result_is_never_worse_than_the_start() -> None:
    """A single step that throws every weight and range about must not come through."""
    module = Block()
    start = clipped(module, 4)
    wild = SignRoundSettings(steps=1, learning_rate=100.0, range_learning_rate=100.0)
    found = signround(module, places(4), *samples(module, 4, 1), start=start, settings=wild)
    assert all(found[name] is start[name] for name in names())


def test_codes_that_are_not_the_nearest_are_improved_upon_too() -> None:
    module = Block()
    nearest = {
        place.name: quantize_blocks(matrix, place.encoding)
        for place, matrix in zip(places(4), module.matrices(), strict=True)
    }
    rng = np.random.default_rng(0)
    start = {
        name: BlockCodes(
            np.clip(codes.codes.astype(int) + rng.integers(-1, 2, codes.codes.shape), 0, 15).astype(np.uint8),
            codes.scales,
            codes.zero_points,
        )
        for name, codes in nearest.items()
    }
    seen = samples(module, 6, 1)
    far = SignRoundSettings(steps=40, learning_rate=1 / 40)
    found = signround(module, places(4), *seen, start=start, settings=far)
    assert relative_error(module, found, seen) < 0.3 * relative_error(module, start, seen)


def test_the_same_seed_gives_the_same_codes_and_the_module_stays() -> None:
    module = Block()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    short = SignRoundSettings(steps=10)
    first, again = (signround(module, places(2), *samples(module, 4, 1), settings=short) for _ in range(2))
    for name in names():
        np.testing.assert_array_equal(first[name].codes, again[name].codes)
        np.testing.assert_array_equal(first[name].scales, again[name].scales)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_arguments_that_do_not_fit_are_refused() -> None:
    module = Block()
    inputs, targets = samples(module, 2, 1)
    with pytest.raises(UsageError, match="found 2 inputs and 1 outputs"):
        signround(module, places(4), inputs, targets[:1])
    with pytest.raises(UsageError, match="steps must be at least 1, found 0"):
        signround(module, places(4), inputs, targets, settings=SignRoundSettings(steps=0))
    with pytest.raises(UsageError, match="learning rates must be 0 or more, found -1"):
        signround(module, places(4), inputs, targets, settings=SignRoundSettings(learning_rate=-1))
    with pytest.raises(UsageError, match=r"call module\.eval"):
        signround(Block().train(), places(4), inputs, targets)
    with pytest.raises(DatasetError, match="must be finite, found nan"):
        signround(module, places(4), [tuple(x * torch.nan for x in inputs[0])], targets[:1])
    with pytest.raises(DatasetError, match="other than zero"):
        signround(module, places(4), inputs, [tuple(torch.zeros_like(y) for y in target) for target in targets])


def test_a_clip_search_with_other_bits_is_no_start() -> None:
    module = Block()
    with pytest.raises(UsageError, match="at most 3"):
        signround(module, places(2), *samples(module, 2, 1), start=clipped(module, 4))


def test_places_of_different_bits_are_trained_together() -> None:
    module = Block()
    mixed = [places(4)[0], places(2)[1], places(8)[2]]
    found = signround(module, mixed, *samples(module, 4, 1), settings=QUICK)
    assert [int(found[place.name].codes.max()) for place in mixed] == [15, 3, 255]
    assert mixed[0].encoding == Encoding(4, 32)
