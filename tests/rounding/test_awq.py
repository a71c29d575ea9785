"""Scales of inputs: they help where activations are unequal, do nothing where not, and keep the product."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rounding.problems import moments_of, weights
from tightship.errors import DatasetMismatch
from tightship.rounding.awq import awq_scales
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import Encoding


def unequal(n_rows: int, seed: int = 0) -> np.ndarray:
    """Independent activations `[n_rows, 128]`, eight of them thirty times as large as the others."""
    x = np.random.default_rng(seed).standard_normal((n_rows, 128)).astype(np.float32)
    x[:, ::16] *= 30
    return x


def error(weight: np.ndarray, scales: np.ndarray, x: np.ndarray) -> float:
    rounded = search_ranges(weight * scales, Encoding(4, 64)).dequantize(128)
    return float(np.linalg.norm((x / scales) @ rounded.T - x @ weight.T) / np.linalg.norm(x @ weight.T))


def test_scaling_lowers_the_output_error_of_all_weights_that_read_the_input() -> None:
    both = [weights(48, 128, 1), weights(32, 128, 2)]
    scales = awq_scales(both, moments_of(unequal(2000)), Encoding(4, 64))
    assert scales.shape == (128,)
    assert scales.dtype == np.float32
    for weight in both:
        assert error(weight, scales, unequal(500, 9)) < 0.7 * error(weight, np.ones(128), unequal(500, 9))


def test_the_columns_of_large_activations_are_scaled_up() -> None:
    scales = awq_scales([weights(48, 128)], moments_of(unequal(2000)), Encoding(4, 64))
    assert scales[::16].min() > 1.5 * np.delete(scales, np.s_[::16]).max()


def test_equal_activations_need_no_scales() -> None:
    x = np.random.default_rng(0).choice([-1.0, 1.0], (4000, 64)).astype(np.float32)
    scales = awq_scales([weights(16, 64)], moments_of(x), Encoding(4, 32))
    np.testing.assert_array_equal(scales, 1)


def test_inputs_never_seen_keep_their_scale() -> None:
    x = unequal(500)
    x[:, 3] = 0
    scales = awq_scales([weights(16, 128)], moments_of(x), Encoding(4, 64))
    assert scales[3] == 1
    assert np.isfinite(scales).all()


def test_many_rows_are_sampled_alike_every_time() -> None:
    weight, moments = weights(600, 128), moments_of(unequal(500))
    first, second = (awq_scales([weight], moments, Encoding(4, 64)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_weight_that_reads_something_else_is_refused() -> None:
    with pytest.raises(DatasetMismatch, match=r"read 128 inputs must have as many columns, found \(4, 64\)"):
        awq_scales([weights(4, 64)], moments_of(unequal(50)), Encoding(4, 64))
