"""AdaRound: directions learned from a layer's outputs, as whole codes, and never a loss against rounding to nearest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from tightship.errors import UsageError
from tightship.rounding.adaround import AdaRoundSettings, adaround

QUICK = AdaRoundSettings(steps=150)

CONVOLUTION_SHAPE = (8, 4, 3, 3)


def correlated_images(n: int, seed: int) -> torch.Tensor:
    """Images whose channels are nearly the same: the errors of their weights can make up for each other."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 1, 6, 6, generator=generator)
    return common + 0.3 * torch.randn(n, CONVOLUTION_SHAPE[1], 6, 6, generator=generator)


def convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(x, weight, padding=1)


def scales(weight: np.ndarray, axis: int, bits: int = 4) -> np.ndarray:
    others = tuple(other for other in range(weight.ndim) if other != axis % weight.ndim)
    return (np.abs(weight).max(axis=others) / (2 ** (bits - 1) - 1)).astype(np.float32)


def nearest(weight: np.ndarray, scale: np.ndarray, axis: int, bits: int = 4) -> np.ndarray:
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / scale.reshape(shape)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int8)


def error(
    codes: np.ndarray, scale: np.ndarray, axis: int, layer: Callable, pairs: list[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    shape = [1] * codes.ndim
    shape[axis] = -1
    weight = torch.from_numpy(codes * scale.reshape(shape))
    return sum(float((layer(x, weight) - y).square().sum()) for x, y in pairs)


def weights(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def batches_of_convolution(weight: np.ndarray, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = correlated_images(48, seed).split(16)
    return [(x, convolution(x, torch.from_numpy(weight))) for x in images]


def test_a_convolution_has_less_than_half_the_error_on_images_that_were_not_seen() -> None:
    weight = weights(CONVOLUTION_SHAPE)
    scale = scales(weight, 0)
    codes = adaround(weight, convolution, batches_of_convolution(weight, 1), scale=scale, settings=QUICK)
    unseen = batches_of_convolution(weight, 2)
    before = error(nearest(weight, scale, 0), scale, 0, convolution, unseen)
    assert error(codes, scale, 0, convolution, unseen) < 0.5 * before


def test_a_matmul_weight_has_its_channels_on_the_last_axis() -> None:
    weight = weights((24, 10))
    scale = scales(weight, -1)
    generator = torch.Generator().manual_seed(0)  # over seeds, what is left is 0.38 to 0.56
    inputs = torch.randn(64, 24, generator=generator) @ torch.randn(24, 24, generator=generator)
    pairs = [(inputs, inputs @ torch.from_numpy(weight))]
    codes = adaround(weight, torch.matmul, pairs, scale=scale, axis=-1, settings=QUICK)
    before = error(nearest(weight, scale, -1), scale, -1, torch.matmul, pairs)
    assert error(codes, scale, -1, torch.matmul, pairs) < 0.5 * before


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_are_the_neighbours_of_the_weight_and_fit_their_bits(bits: int) -> None:
    weight = weights(CONVOLUTION_SHAPE)
    scale = scales(weight, 0, bits) * np.float32(0.7)
    codes = adaround(weight, convolution, batches_of_convolution(weight, 1), scale=scale, bits=bits, settings=QUICK)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    floor = np.floor(weight / scale.reshape(-1, 1, 1, 1))
    assert codes.dtype == np.int8
    assert codes.shape == weight.shape
    assert ((codes == np.clip(floor, low, high)) | (codes == np.clip(floor + 1, low, high))).all()


def test_the_result_is_never_worse_than_rounding_to_nearest() -> None:
    """One step that throws all weights about must not come through."""
    weight = weights(CONVOLUTION_SHAPE)
    scale = scales(weight, 0)
    pairs = batches_of_convolution(weight, 1)
    wild = AdaRoundSettings(steps=1, learning_rate=1000.0)
    codes = adaround(weight, convolution, pairs, scale=scale, settings=wild)
    np.testing.assert_array_equal(codes, nearest(weight, scale, 0))


def test_a_weight_that_is_exact_already_keeps_its_codes() -> None:
    codes = np.random.default_rng(0).integers(-8, 8, CONVOLUTION_SHAPE).astype(np.int8)
    weight = codes.astype(np.float32) * np.float32(0.5)
    scale = np.full(8, 0.5, np.float32)
    found = adaround(weight, convolution, batches_of_convolution(weight, 1), scale=scale, settings=QUICK)
    np.testing.assert_array_equal(found, codes)


def test_activations_that_the_layer_rounds_are_made_up_for() -> None:
    weight = weights(CONVOLUTION_SHAPE)
    scale = scales(weight, 0)

    def coarse(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return convolution((x / 0.5).round() * 0.5, weight)

    pairs = batches_of_convolution(weight, 1)
    codes = adaround(weight, coarse, pairs, scale=scale, settings=QUICK)
    assert error(codes, scale, 0, coarse, pairs) < 0.9 * error(nearest(weight, scale, 0), scale, 0, coarse, pairs)


def test_the_same_seed_gives_the_same_codes() -> None:
    weight = weights(CONVOLUTION_SHAPE)
    pairs = batches_of_convolution(weight, 1)
    first, again = (adaround(weight, convolution, pairs, scale=scales(weight, 0), settings=QUICK) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 9}, "bits must be 2..8, found 9"),
        ({"axis": 4}, "has no axis 4"),
        ({"axis": 1}, r"needs 4 scales along axis 1, found an array of shape \(8,\)"),
        ({"scale": np.zeros(8, np.float32)}, "scales must be positive and finite"),
        ({"weight": np.full(CONVOLUTION_SHAPE, np.nan, np.float32)}, "numbers that are not finite"),
        ({"batches": []}, "at least one batch"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    weight = weights(CONVOLUTION_SHAPE)
    arguments = {
        "weight": weight,
        "layer": convolution,
        "batches": [(correlated_images(1, 0), torch.zeros(1, 8, 6, 6))],
        "scale": scales(weight, 0),
        "settings": QUICK,
    }
    with pytest.raises(UsageError, match=message):
        adaround(**(arguments | changes))


@pytest.mark.parametrize("changes", [{"steps": 0}, {"warm_start": 1.0}])
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="adaround: "):
        AdaRoundSettings(**changes)
