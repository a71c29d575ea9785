"""Ranges found by search: what counts more is rounded better, and nothing is worse than with the whole range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rounding.problems import Activations, moments_of, output_error, weights
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import BITS, Encoding


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(BITS), st.sampled_from([16, 32]), st.booleans(), st.integers(1, 5), st.integers(1, 70))
def test_codes_of_any_shape_fit_their_bits(bits: int, block: int, symmetric: bool, n_rows: int, n_columns: int) -> None:
    found = search_ranges(weights(n_rows, n_columns, seed=n_columns), Encoding(bits, block, symmetric))
    n_blocks = -(-n_columns // block)
    assert found.codes.shape == (n_rows, n_blocks, block)
    assert found.scales.shape == found.zero_points.shape == (n_rows, n_blocks)
    assert found.codes.max() < 2**bits
    assert found.zero_points.max() < 2**bits
    assert np.isfinite(found.scales).all()
    assert found.scales.all()
    assert not symmetric or (found.zero_points == 2 ** (bits - 1)).all()
    assert found.dequantize(n_columns).shape == (n_rows, n_columns)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_the_search_is_no_worse_than_a_few_common_cuts(bits: int, symmetric: bool) -> None:
    weight, encoding = weights(64, 256), Encoding(bits, 64, symmetric)
    ours = search_ranges(weight, encoding).dequantize(256)
    theirs = quantize_blocks(weight, encoding).dequantize(256)
    assert np.linalg.norm(ours - weight) <= np.linalg.norm(theirs - weight)


@pytest.mark.parametrize(("bits", "most"), [(4, 0.87), (3, 0.88), (2, 0.8)])
def test_weighing_columns_by_their_activations_lowers_the_output_error(bits: int, most: float) -> None:
    source, weight, encoding = Activations(256), weights(64, 256), Encoding(bits, 64)
    importance = np.diagonal(moments_of(source.draw(2048)).hessian)
    held_out = source.draw(1024)
    weighted = output_error(weight, search_ranges(weight, encoding, importance), held_out)
    assert weighted < most * output_error(weight, search_ranges(weight, encoding), held_out)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.5, -1.5, 1e-42, 1e18])
def test_blocks_of_one_number_stay_what_they_are(value: float, symmetric: bool) -> None:
    weight = np.full((2, 32), value, np.float32)
    found = search_ranges(weight, Encoding(4, 32, symmetric)).dequantize(32)
    # 1e-42 is too small to divide by and becomes zero.
    np.testing.assert_allclose(found, weight, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("dead", [slice(0, 32), slice(None)])
def test_blocks_whose_inputs_were_never_seen_are_rounded_to_nearest(dead: slice) -> None:
    weight, importance = weights(8, 64), np.ones(64, np.float32)
    importance[dead] = 0
    found = search_ranges(weight, Encoding(8, 32), importance).dequantize(64)
    assert np.linalg.norm(found - weight) < 0.01 * np.linalg.norm(weight)
