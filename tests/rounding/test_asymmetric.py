"""The target where inputs have drifted: the least squares of the original output."""

from __future__ import annotations

import numpy as np

from tests.rounding.problems import Activations, moments_of, weights
from tightship.rounding.asymmetric import drift_target
from tightship.rounding.second_moment import Moments


def distance(weight: np.ndarray, target: np.ndarray, x: np.ndarray, x_float: np.ndarray) -> float:
    return float(np.linalg.norm(x_float @ weight.T - x @ target.T) / np.linalg.norm(x_float @ weight.T))


def test_the_target_is_the_least_squares_of_the_original_output() -> None:
    source, weight = Activations(32), weights(8, 32)
    x_float = source.draw(20000)
    x = source.drifted(x_float, 0.2)
    best = np.linalg.lstsq(x.astype(np.float64), x_float.astype(np.float64) @ weight.T, rcond=None)[0].T
    found = drift_target(weight, moments_of(x, x_float), damping=1e-4)
    # What damping takes: 3e-4 of the mean square, where the smallest directions have about 1e-2 of it.
    assert distance(weight, found, x, x_float) < 1.01 * distance(weight, best, x, x_float)
    # Half of the drift is noise, which no weight takes back.
    assert distance(weight, found, x, x_float) < 0.9 * distance(weight, weight, x, x_float)


def test_the_target_is_its_formula() -> None:
    source, weight = Activations(20), weights(3, 20)
    x_float = source.draw(50)
    x = source.drifted(x_float, 0.1)
    moments = moments_of(x, x_float)
    exact, exact_float = x.astype(np.float64), x_float.astype(np.float64)
    cross, hessian = (exact_float - exact).T @ exact / 50, exact.T @ exact / 50
    # 50 inputs of 20 columns: trusted as 50 / (50 + 10), and damped by 0.15 * 20 / 50 besides what was asked for.
    damped = hessian + (0.01 + 0.06) * np.diagonal(hessian).mean() * np.eye(20)
    wanted = weight + 50 / 60 * weight @ cross @ np.linalg.inv(damped)
    np.testing.assert_allclose(drift_target(weight, moments, 0.01), wanted, rtol=1e-4, atol=1e-4)


def test_few_inputs_do_not_mislead_it_on_inputs_not_seen() -> None:
    source, weight = Activations(128), weights(8, 128)
    x_float, held_out_float = source.draw(64), source.draw(1000)
    x, held_out = source.drifted(x_float, 0.1), source.drifted(held_out_float, 0.1)
    found = drift_target(weight, moments_of(x, x_float), 0.01)
    assert distance(weight, found, held_out, held_out_float) < distance(weight, weight, held_out, held_out_float)


def test_without_drift_the_weight_is_its_own_target() -> None:
    x, weight = Activations(32).draw(100), weights(4, 32)
    assert drift_target(weight, moments_of(x), 0.01) is weight
    np.testing.assert_allclose(drift_target(weight, moments_of(x, x), 0.01), weight)


def test_inputs_never_seen_move_nothing() -> None:
    weight, zeros = weights(4, 32), np.zeros((32, 32), np.float32)
    assert drift_target(weight, Moments(zeros, zeros, 10), 0.01) is weight
