"""Polishing: never worse, and at the least squares where that is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rounding.problems import Activations, moments_of, output_error, weights
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import BITS, Encoding
from tightship.rounding.gptq import gptq
from tightship.rounding.refit import refit
from tightship.rounding.second_moment import Moments

FLOAT32 = 1e-5
"""Relative: sums of some hundred products in float32."""


def losses(weight: np.ndarray, rounded: BlockCodes, moments: Moments) -> np.ndarray:
    """Return `[N]` what refit minimises, by its definition in float64, up to a constant of each row."""
    hessian = moments.hessian.astype(np.float64)
    hessian[np.diag_indices_from(hessian)] += moments.ridge(0.01)
    error = weight.astype(np.float64) - rounded.dequantize(weight.shape[1])
    loss = np.einsum("nk,nk->n", error @ hessian, error)
    if moments.cross is not None:
        loss += 2 * moments.cross_trust * np.einsum("nk,nk->n", weight.astype(np.float64) @ moments.cross, error)
    return np.asarray(loss)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(BITS),
    st.booleans(),
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
    st.booleans(),
)
def test_no_row_becomes_worse(
    bits: int, symmetric: bool, n_columns: int, codes: bool, drifted: bool, sweeps: int, feedback: bool
) -> None:
    source, weight, encoding = Activations(n_columns), weights(5, n_columns, n_columns), Encoding(bits, 16, symmetric)
    x = source.draw(200)
    moments = moments_of(source.drifted(x, 0.2), x) if drifted else moments_of(x)
    before = gptq(weight, moments, encoding) if feedback else search_ranges(weight, encoding)
    after = refit(weight, before, moments, encoding, codes=codes, sweeps=sweeps)
    old, new = losses(weight, before, moments), losses(weight, after, moments)
    # The squares of the output are the scale of the rounding of float32.
    scale = np.einsum("nk,kl,nl->n", weight, moments.hessian, weight)
    assert (new <= old + FLOAT32 * scale).all()
    assert after.codes.max() <= encoding.top
    assert np.array_equal(after.zero_points, before.zero_points)
    assert codes or np.array_equal(after.codes, before.codes)


@pytest.mark.parametrize("drifted", [False, True])
def test_scales_reach_the_solution_of_the_normal_equations(drifted: bool) -> None:
    source, weight, encoding = Activations(64), weights(4, 64), Encoding(3, 16)
    x = source.draw(500)
    moments = moments_of(source.drifted(x, 0.2), x) if drifted else moments_of(x)
    before = search_ranges(weight, encoding)
    found = refit(weight, before, moments, encoding, sweeps=200).scales
    hessian = moments.hessian + moments.ridge(0.01) * np.eye(64)
    aim = weight @ hessian
    if moments.cross is not None:
        aim += moments.cross_trust * weight @ moments.cross
    steps = before.codes.astype(np.float64) - before.zero_points[..., None]
    for row in range(4):
        per_block = np.zeros((4, 64))
        for block in range(4):
            per_block[block, block * 16 : (block + 1) * 16] = steps[row, block]
        wanted = np.linalg.solve(per_block @ hessian @ per_block.T, per_block @ aim[row])
        np.testing.assert_allclose(found[row], wanted, rtol=1e-3)


def test_a_weight_that_its_codes_hold_exactly_stays() -> None:
    encoding = Encoding(4, 16)
    before = search_ranges(weights(4, 64), encoding)
    weight = before.dequantize(64)
    after = refit(weight, before, moments_of(Activations(64).draw(500)), encoding, codes=True)
    np.testing.assert_array_equal(after.codes, before.codes)
    np.testing.assert_allclose(after.scales, before.scales, rtol=1e-5)


@pytest.mark.parametrize("codes", [False, True])
def test_a_weight_of_zeros_or_inputs_never_seen_leave_it_as_it_was(codes: bool) -> None:
    encoding, nothing = Encoding(4, 16), Moments(np.zeros((32, 32), np.float32), None, 10)
    zeros, some = np.zeros((2, 32), np.float32), weights(2, 32)
    before = search_ranges(zeros, encoding)
    after = refit(zeros, before, moments_of(Activations(32).draw(100)), encoding, codes=codes)
    np.testing.assert_array_equal(after.dequantize(32), zeros)
    before = search_ranges(some, encoding)
    np.testing.assert_array_equal(refit(some, before, nothing, encoding, codes=codes).scales, before.scales)


def test_the_input_is_not_changed() -> None:
    weight, encoding = weights(4, 32), Encoding(2, 16)
    before = search_ranges(weight, encoding)
    kept = BlockCodes(before.codes.copy(), before.scales.copy(), before.zero_points.copy())
    refit(weight, before, moments_of(Activations(32).draw(100)), encoding, codes=True)
    np.testing.assert_array_equal(before.codes, kept.codes)
    np.testing.assert_array_equal(before.scales, kept.scales)


@pytest.mark.parametrize(("bits", "most"), [(4, 0.99), (2, 0.975)])
def test_what_error_feedback_left_is_still_lowered_on_inputs_not_seen(bits: int, most: float) -> None:
    source, weight, encoding = Activations(256), weights(64, 256), Encoding(bits, 64)
    moments = moments_of(source.draw(4096))
    held_out = source.draw(1024)
    before = gptq(weight, moments, encoding)
    after = refit(weight, before, moments, encoding, codes=True)
    assert output_error(weight, after, held_out) < most * output_error(weight, before, held_out)
