"""Weights of a module as blocks: found by name, in either layout, put in for a call, never written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tightship.errors import UsageError
from tightship.rounding.blocks import BlockCodes, quantize_blocks
from tightship.rounding.encoding import Encoding
from tightship.rounding.trainable import (
    WeightPlace,
    outputs,
    round_through,
    start_codes,
    stored,
    weight_blocks,
    within_codes,
)

ENCODING = Encoding(bits=2, block=16)


class TwoLayouts(torch.nn.Module):
    """One matrix `[N, K]` as a parameter, one `[K, N]` as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(20, 24)
        self.register_buffer("second", torch.randn(24, 5))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) @ self.second


PLACES = [WeightPlace("first.weight", False, ENCODING), WeightPlace("second", True, ENCODING)]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_blocks_go_back_to_the_layout_in_which_the_module_keeps_the_weight(place: WeightPlace) -> None:
    module = TwoLayouts()
    blocks = weight_blocks(module, place)
    assert blocks.shape[1:] == (2, 16)
    assert torch.equal(
        stored(module, place, blocks), module.get_parameter("first.weight") if not place.transposed else module.second
    )


def test_what_fills_up_the_last_block_is_zero() -> None:
    blocks = weight_blocks(TwoLayouts(), PLACES[0])
    assert not blocks[:, 1, 4:].any()


def test_a_module_runs_with_other_weights_and_keeps_its_own() -> None:
    module = TwoLayouts()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x = torch.randn(3, 20)
    (found,) = outputs(module, {"second": torch.ones(24, 5)}, (x,))
    torch.testing.assert_close(found, module.first(x).sum(-1, keepdim=True).expand(3, 5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_rounding_passes_gradients_straight_through() -> None:
    numbers = torch.tensor([0.4, 1.6], requires_grad=True)
    rounded = round_through(numbers)
    assert rounded.tolist() == [0, 2]
    (gradient,) = torch.autograd.grad((rounded * torch.tensor([3.0, 5.0])).sum(), [numbers])
    assert gradient.tolist() == [3, 5]


def test_weights_without_codes_start_from_a_clip_search_and_others_as_given() -> None:
    module = TwoLayouts()
    given = quantize_blocks(module.first.weight.detach().numpy(), ENCODING)
    found = start_codes(module, PLACES, {"first.weight": given})
    assert list(found) == ["first.weight", "second"]
    assert found["first.weight"] is given
    error = found["second"].dequantize(24) - module.second.numpy().T
    assert np.square(error).mean() < 0.25 * float(module.second.square().mean())


@pytest.mark.parametrize("shift", [0, 1, -1])
def test_weights_are_moved_no_further_than_makes_them_round_to_the_codes_given(shift: int) -> None:
    encoding = Encoding(bits=4, block=16)
    weight = torch.randn(6, 2, 16, generator=torch.Generator().manual_seed(0))
    near = quantize_blocks(weight.reshape(6, 32).numpy(), encoding)
    start = BlockCodes(np.clip(near.codes.astype(int) + shift, 0, 15).astype(np.uint8), near.scales, near.zero_points)
    moved = within_codes(weight, start, encoding)
    codes = (moved.round() + torch.from_numpy(start.zero_points)[..., None]).clamp(0, 15)
    np.testing.assert_array_equal(codes.numpy(), start.codes)
    ideal = weight / torch.from_numpy(start.scales)[..., None]
    # A weight within half a code of its nearest one has at most a whole code to go to the edge of the next.
    nearest_steps = torch.from_numpy(near.codes).float() - torch.from_numpy(near.zero_points).float()[..., None]
    inside = (ideal - nearest_steps).abs() <= 0.5
    assert (moved - ideal)[inside].abs().max() <= abs(shift) + 0.05 + 1e-5


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (WeightPlace("first.wieght", False, ENCODING), r"no parameter or buffer .*did you mean 'first.weight'"),
        (WeightPlace("first.bias", False, ENCODING), r"must be a matrix, found the shape \(24,\)"),
    ],
)
def test_a_place_that_holds_no_matrix_is_refused(place: WeightPlace, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        weight_blocks(TwoLayouts(), place)


def test_a_weight_that_is_not_finite_is_refused() -> None:
    module = TwoLayouts()
    module.second[0, 0] = torch.inf
    with pytest.raises(UsageError, match="'second' holds numbers that are not finite"):
        weight_blocks(module, PLACES[1])


def test_codes_that_are_not_those_of_the_weight_are_refused() -> None:
    module = TwoLayouts()
    other = quantize_blocks(np.zeros((24, 40), np.float32), ENCODING)
    wide = quantize_blocks(module.first.weight.detach().numpy(), Encoding(bits=4, block=16))
    for codes, message in ((other, r"shape \(24, 2, 16\)"), (wide, "at most 3")):
        with pytest.raises(UsageError, match=message):
            start_codes(module, PLACES, {"first.weight": codes})
    with pytest.raises(UsageError, match="'third', which is not one of the weights"):
        start_codes(module, PLACES, {"third": other})
    with pytest.raises(UsageError, match="at least one weight"):
        start_codes(module, [], None)
