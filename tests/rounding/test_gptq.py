"""Error feedback: the algorithm of the paper, better on inputs it never saw, and sound where the inputs are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.rounding.problems import Activations, moments_of, output_error, weights
from tightship.errors import DatasetError
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import BITS, Encoding
from tightship.rounding.gptq import gptq
from tightship.rounding.second_moment import Moments

MOST = {8: 0.67, 4: 0.68, 3: 0.68, 2: 0.7}
"""Output error by error feedback over that of clip search alone, on inputs of this correlation that were not seen."""


def as_in_the_paper(target: np.ndarray, hessian: np.ndarray, grid: BlockCodes, top: int) -> np.ndarray:
    """GPTQ as first published: after each column, all that remain move by -error * H^-1[j, rest] / H^-1[j, j]."""
    left = target.astype(np.float64)
    block = grid.codes.shape[2]
    codes = np.zeros(target.shape, np.uint8)
    remaining = list(np.argsort(-np.diagonal(hessian), kind="stable"))
    while remaining:
        inverse = np.linalg.inv(hessian[np.ix_(remaining, remaining)])
        column = remaining[0]
        scale, zero = grid.scales[:, column // block], grid.zero_points[:, column // block]
        codes[:, column] = np.clip(np.rint(left[:, column] / scale) + zero, 0, top)
        error = left[:, column] - (codes[:, column].astype(np.float64) - zero) * scale
        left[:, remaining] -= np.outer(error, inverse[0] / inverse[0, 0])
        remaining.pop(0)
    return codes


def damped(moments: Moments, damping: float) -> np.ndarray:
    return moments.hessian.astype(np.float64) + moments.ridge(damping) * np.eye(len(moments.hessian))


@pytest.mark.parametrize("n_columns", [24, 150])
def test_codes_are_those_of_the_paper(n_columns: int) -> None:
    """150 columns are more than a portion of 128, and leave a block that is not full."""
    weight, encoding = weights(6, n_columns), Encoding(4, 32)
    moments = moments_of(Activations(n_columns).draw(2000))
    grid = search_ranges(weight, encoding, np.diagonal(moments.hessian))
    wanted = as_in_the_paper(weight, damped(moments, 0.01), grid, encoding.top)
    found = gptq(weight, moments, encoding).codes.reshape(6, -1)[:, :n_columns]
    # A sum that ends within float32's rounding of the middle between two codes may fall either way.
    assert (found != wanted).mean() < 0.003


def test_drifted_inputs_move_the_target_to_the_least_squares_of_the_original_output() -> None:
    source, weight, encoding = Activations(48), weights(6, 48), Encoding(4, 16)
    x_float = source.draw(1000)
    x = source.drifted(x_float, 0.1)
    moments = moments_of(x, x_float)
    hessian = damped(moments, 0.01)
    assert moments.cross is not None
    target = weight + moments.cross_trust * weight @ moments.cross.astype(np.float64) @ np.linalg.inv(hessian)
    grid = search_ranges(target.astype(np.float32), encoding, np.diagonal(moments.hessian))
    wanted = as_in_the_paper(target, hessian, grid, encoding.top)
    found = gptq(weight, moments, encoding).codes.reshape(6, 48)
    assert (found != wanted).mean() < 0.01


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("bits", BITS)
def test_error_feedback_lowers_the_output_error_on_inputs_not_seen(bits: int, block: int) -> None:
    source, weight, encoding = Activations(256), weights(64, 256), Encoding(bits, block)
    moments = moments_of(source.draw(4096))
    held_out = source.draw(1024)
    clipped = search_ranges(weight, encoding, np.diagonal(moments.hessian))
    error = output_error(weight, gptq(weight, moments, encoding), held_out)
    assert error < MOST[bits] * output_error(weight, clipped, held_out)


def test_rounding_large_activations_first_is_better_than_in_the_order_of_columns() -> None:
    source, weight, encoding = Activations(256), weights(64, 256), Encoding(4, 64)
    moments = moments_of(source.draw(4096))
    held_out = source.draw(1024)
    ordered = output_error(weight, gptq(weight, moments, encoding), held_out)
    assert ordered < 0.95 * output_error(weight, gptq(weight, moments, encoding, activation_order=False), held_out)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.9), (4, 0.93), (2, 0.99)])
def test_aiming_at_the_original_output_is_better_where_inputs_have_drifted(bits: int, most: float) -> None:
    source, weight, encoding = Activations(256), weights(64, 256), Encoding(bits, 64)
    x_float, held_out_float = source.draw(4096), source.draw(1024)
    x, held_out = source.drifted(x_float, 0.1), source.drifted(held_out_float, 0.1)
    moments = moments_of(x, x_float)
    aimed = output_error(weight, gptq(weight, moments, encoding), held_out, held_out_float)
    blind = output_error(weight, gptq(weight, replace(moments, cross=None), encoding), held_out, held_out_float)
    assert aimed < most * blind


def test_fewer_inputs_than_columns_are_still_better_than_none() -> None:
    source, weight, encoding = Activations(256), weights(64, 256), Encoding(4, 64)
    moments = moments_of(source.draw(100))
    held_out = source.draw(1024)
    error = output_error(weight, gptq(weight, moments, encoding), held_out)
    assert error < 0.95 * output_error(weight, search_ranges(weight, encoding), held_out)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n_columns", [1, 33, 130])
def test_shapes_that_fill_no_block_come_out_whole(n_columns: int, symmetric: bool) -> None:
    weight, encoding = weights(3, n_columns), Encoding(8, 32, symmetric)
    found = gptq(weight, moments_of(Activations(n_columns).draw(500)), encoding)
    assert found.codes.shape == (3, encoding.n_blocks(n_columns), 32)
    assert np.linalg.norm(found.dequantize(n_columns) - weight) < 0.03 * np.linalg.norm(weight)
    # What fills up the last block stands for zero, as in a weight rounded without feedback.
    padding = found.codes.reshape(3, -1)[:, n_columns:]
    assert (padding == np.repeat(found.zero_points, 32, axis=1)[:, n_columns:]).all()


def test_columns_never_seen_are_rounded_to_nearest_and_disturb_no_others() -> None:
    source, weight, encoding = Activations(64), weights(16, 64), Encoding(4, 32)
    x = source.draw(1000)
    x[:, 5:9] = 0
    moments = moments_of(x)
    found = gptq(weight, moments, encoding)
    nearest = search_ranges(weight, encoding, np.diagonal(moments.hessian))
    assert (found.codes[:, 0, 5:9] == nearest.codes[:, 0, 5:9]).all()
    assert output_error(weight, found, x) < output_error(weight, nearest, x)


def test_without_any_activation_it_is_the_clip_search() -> None:
    weight, encoding = weights(4, 32), Encoding(4, 32)
    found = gptq(weight, Moments(np.zeros((32, 32), np.float32), None, 5), encoding)
    np.testing.assert_array_equal(found.codes, search_ranges(weight, encoding).codes)


def test_inputs_that_are_all_the_same_are_no_obstacle() -> None:
    weight, encoding = weights(8, 64), Encoding(4, 32)
    x = np.tile(Activations(64).draw(1), (500, 1))
    found = gptq(weight, moments_of(x), encoding)
    assert output_error(weight, found, x) < 0.01


def test_moments_just_short_of_positive_definite_are_damped_more() -> None:
    hessian = np.eye(16, dtype=np.float32)
    hessian[0, 1] = hessian[1, 0] = 1.5
    weight = weights(4, 16)
    found = gptq(weight, Moments(hessian, None, 10**6), Encoding(8, 16))
    assert np.linalg.norm(found.dequantize(16) - weight) < 0.02 * np.linalg.norm(weight)


def test_moments_that_are_no_moments_are_refused() -> None:
    hessian = np.eye(16, dtype=np.float32)
    hessian[0, 1] = hessian[1, 0] = 1e6
    with pytest.raises(DatasetError, match="second moments of 16 activations must be positive definite"):
        gptq(weights(4, 16), Moments(hessian, None, 100), Encoding(4, 16))


def test_moments_with_nan_are_refused() -> None:
    hessian = np.eye(16, dtype=np.float32)
    hessian[3, 3] = np.nan
    with pytest.raises(DatasetError, match="must be finite"):
        gptq(weights(4, 16), Moments(hessian, None, 100), Encoding(4, 16))
