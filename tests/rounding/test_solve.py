"""One weight by each preset: what needs no data asks for none, and what sees more data is better."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from tests.rounding.problems import Activations, moments_of, output_error, weights
from tightship.errors import DatasetMismatch, InvalidModel
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.encoding import BITS, Encoding
from tightship.rounding.solve import PRESETS, Method, round_weight


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_has_a_method_for_every_width(preset: str) -> None:
    assert set(PRESETS[preset]) == set(BITS)


@pytest.mark.parametrize("bits", BITS)
def test_more_effort_is_never_worse_on_inputs_not_seen(bits: int) -> None:
    source, weight, encoding = Activations(256), weights(32, 256), Encoding(bits, 64)
    moments = moments_of(source.draw(2048))
    held_out = source.draw(1024)
    nearest = output_error(weight, quantize_blocks(weight, encoding), held_out)
    fast, balanced, best = (
        output_error(weight, round_weight(weight, moments, encoding, PRESETS[preset][bits]), held_out)
        for preset in ("fast", "balanced", "best")
    )
    assert fast < nearest
    assert balanced < 0.7 * nearest
    assert best <= balanced


@pytest.mark.parametrize("preset", list(PRESETS))
def test_without_data_every_preset_is_the_clip_search(preset: str) -> None:
    weight, encoding = weights(8, 64), Encoding(4, 32)
    found = round_weight(weight, None, encoding, PRESETS[preset][4])
    wanted = round_weight(weight, None, encoding, PRESETS["fast"][4])
    np.testing.assert_array_equal(found.codes, wanted.codes)
    np.testing.assert_array_equal(found.scales, wanted.scales)


def test_every_field_of_a_method_changes_something() -> None:
    source, weight, encoding = Activations(64), weights(16, 64), Encoding(3, 32)
    x = source.draw(400)
    moments = moments_of(source.drifted(x, 0.3), x)
    usual = round_weight(weight, moments, encoding, Method()).dequantize(64)
    others = {"damping": 0.5}
    for field in fields(Method):
        value = others.get(field.name, not field.default)
        found = round_weight(weight, moments, encoding, Method(**{field.name: value}))  # type: ignore[arg-type]
        assert not np.array_equal(found.dequantize(64), usual), field.name


def test_moments_of_other_inputs_are_refused() -> None:
    moments = moments_of(Activations(32).draw(50))
    with pytest.raises(
        DatasetMismatch, match=r"shape \(8, 64\) needs moments \[64, 64\] of its inputs, found \[32, 32\]"
    ):
        round_weight(weights(8, 64), moments, Encoding(), Method())


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e20])
def test_weights_that_are_no_weights_are_refused(bad: float) -> None:
    weight = weights(8, 64)
    weight[2, 3] = bad
    with pytest.raises(InvalidModel, match=r"of shape \(8, 64\) must stay below 1e\+18, found"):
        round_weight(weight, None, Encoding(), Method())
