"""Corrections of low rank: as good as the exact decomposition, and better than one that does not know the inputs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rounding.problems import Activations, moments_of, weights
from tightship.errors import DatasetError, UsageError
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.encoding import Encoding
from tightship.rounding.low_rank import low_rank_correction
from tightship.rounding.second_moment import Moments

ROUNDED = quantize_blocks(weights(96, 128), Encoding(2, 64))
ERROR = weights(96, 128) - ROUNDED.dequantize(128)


def left_over(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> float:
    return float(np.linalg.norm((ERROR - a @ b) @ x.T) / np.linalg.norm(ERROR @ x.T))


@pytest.mark.parametrize("rank", [1, 8, 32])
def test_the_pair_is_as_good_as_the_exact_decomposition_in_the_whitened_space(rank: int) -> None:
    moments = moments_of(Activations(128).draw(4000))
    hessian = moments.hessian.astype(np.float64) + moments.ridge(0.01) * np.eye(128)
    whitened = ERROR @ np.linalg.cholesky(hessian)
    least = np.linalg.norm(np.linalg.svd(whitened, compute_uv=False)[rank:])
    a, b = low_rank_correction(weights(96, 128), ROUNDED, moments, rank)
    assert a.shape == (96, rank)
    assert b.shape == (rank, 128)
    assert a.dtype == b.dtype == np.float32
    rest = ERROR - a.astype(np.float64) @ b
    assert np.sqrt(np.einsum("nk,kl,nl->", rest, hessian, rest)) < 1.01 * least


def test_knowing_the_inputs_is_worth_more_than_the_largest_directions_of_the_weight() -> None:
    source = Activations(128)
    u, s, v = np.linalg.svd(ERROR, full_matrices=False)
    moments, held_out = moments_of(source.draw(4000)), source.draw(1000)
    blind = left_over(u[:, :16] * s[:16], v[:16], held_out)
    assert left_over(*low_rank_correction(weights(96, 128), ROUNDED, moments, 16), held_out) < 0.8 * blind


def test_a_correction_of_full_rank_undoes_the_rounding() -> None:
    source = Activations(128)
    a, b = low_rank_correction(weights(96, 128), ROUNDED, moments_of(source.draw(4000)), 96)
    assert left_over(a, b, source.draw(1000)) < 1e-4


def test_drift_of_the_inputs_is_corrected_too() -> None:
    source, weight = Activations(128), weights(96, 128)
    x_float, held_out_float = source.draw(4000), source.draw(1000)
    x, held_out = source.drifted(x_float, 0.2), source.drifted(held_out_float, 0.2)
    moments = moments_of(x, x_float)

    def error(moments: Moments) -> float:
        a, b = low_rank_correction(weight, ROUNDED, moments, 32)
        return float(np.linalg.norm(held_out @ (ROUNDED.dequantize(128) + a @ b).T - held_out_float @ weight.T))

    assert error(moments) < 0.99 * error(Moments(moments.hessian, None, moments.n_rows))


@pytest.mark.parametrize("rank", [0, 97])
def test_a_rank_that_is_none_is_refused(rank: int) -> None:
    moments = moments_of(Activations(128).draw(10))
    with pytest.raises(UsageError, match=rf"must be 1\.\.96, found {rank}"):
        low_rank_correction(weights(96, 128), ROUNDED, moments, rank)


def test_moments_that_are_no_moments_are_refused() -> None:
    hessian = np.eye(128, dtype=np.float32)
    hessian[0, 1] = hessian[1, 0] = 1e6
    with pytest.raises(DatasetError, match="must be positive definite"):
        low_rank_correction(weights(96, 128), ROUNDED, Moments(hessian, None, 1000), 4)
