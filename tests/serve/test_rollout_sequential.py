"""Bounds that hold at every moment: checked by looking again and again, which tests for one look do not survive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tightship.serve.rollout.sequential import Seen, log_capital, lower_bound, upper_bound

ALPHA = 0.05
N_RUNS, N_OBSERVATIONS = 400, 2000


def peeking_refutes(draw: np.ndarray, mean: float) -> float:
    """Share of runs (rows of 0 and 1) in which the claim is refuted at any of the moments looked at."""
    moments = np.unique(np.geomspace(1, draw.shape[1], 150).astype(int))
    failures = np.cumsum(draw, axis=1)[:, moments - 1]
    known: dict[tuple[int, int], bool] = {}
    refuted = 0
    for row in failures:
        for n, k in zip(moments, row, strict=True):
            key = (int(n), int(k))
            if key not in known:
                known[key] = log_capital(Seen.of(int(k), int(n)), mean) >= np.log(1 / ALPHA)
            if known[key]:
                refuted += 1
                break
    return refuted / len(draw)


@pytest.mark.parametrize("mean", [0.01, 0.05, 0.5])
def test_a_true_claim_is_refuted_no_more_often_than_allowed_however_often_one_looks(mean: float) -> None:
    draw = np.random.default_rng(7).random((N_RUNS, N_OBSERVATIONS)) < mean
    # Ville's bound is 5 %; three standard errors of 400 runs are allowed on top.
    assert peeking_refutes(draw, mean) <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / N_RUNS)


def test_a_test_for_one_look_would_not_survive_looking_often() -> None:
    """The referee: what the sequential test is for."""
    draw = np.random.default_rng(7).random((N_RUNS, N_OBSERVATIONS)) < 0.05
    failures = np.cumsum(draw, axis=1)
    moments = np.unique(np.geomspace(20, N_OBSERVATIONS, 150).astype(int))
    looks = stats.binom.sf(failures[:, moments - 1] - 1, moments, 0.05) <= ALPHA
    assert looks.any(axis=1).mean() > 3 * ALPHA


def test_a_claim_stays_safe_where_the_means_change_but_never_exceed_it() -> None:
    rng = np.random.default_rng(3)
    means = np.where(np.arange(N_OBSERVATIONS) % 400 < 200, 0.05, 0.001)
    draw = rng.random((N_RUNS, N_OBSERVATIONS)) < means
    assert peeking_refutes(draw, 0.05) <= ALPHA


def test_a_false_claim_is_refuted_soon() -> None:
    draw = np.random.default_rng(1).random((100, N_OBSERVATIONS)) < 0.10
    assert peeking_refutes(draw, 0.05) >= 0.95


def test_three_failures_in_a_row_refute_one_in_a_hundred() -> None:
    assert log_capital(Seen.of(3, 3), 0.01) > np.log(1 / 0.001)


def test_betting_refutes_no_mean_of_values_between_0_and_1_at_every_moment() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(100):
        values = rng.beta(1, 9, 400)
        seen = [Seen(values[:n], np.ones(n)) for n in range(1, 401, 13)]
        bets = [max(log_capital(one, 0.1), log_capital(one.reversed(), 0.9)) for one in seen]
        missed += max(bets) >= -np.log(ALPHA)
    assert missed <= 2 * ALPHA * 100  # each side may be missed with 5 %


def test_bounds_close_in_on_the_mean() -> None:
    seen = Seen.of(500, 10_000)
    assert 0.040 < lower_bound(seen, ALPHA) < 0.05 < upper_bound(seen, ALPHA) < 0.062


def test_nothing_seen_says_nothing() -> None:
    nothing = Seen.of(0, 0)
    assert (lower_bound(nothing, ALPHA), upper_bound(nothing, ALPHA)) == (0.0, 1.0)


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 0.999), st.floats(0.001, 0.2))
@settings(max_examples=60, deadline=None)
def test_bounds_enclose_what_was_seen(good: int, bad: int, mean: float, alpha: float) -> None:
    seen = Seen.of(bad, good + bad)
    low, high = lower_bound(seen, alpha), upper_bound(seen, alpha)
    assert 0.0 <= low <= high <= 1.0
    if seen.total:
        assert low <= seen.mean <= high
    refuted = log_capital(seen, mean) >= -np.log(alpha)
    assert refuted == (mean <= low + 1e-9) or abs(mean - low) < 1e-6


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=6), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_and_the_worker_of_an_observation_do_not_matter(pairs: list[tuple[float, int]], shuffle) -> None:  # type: ignore[no-untyped-def]
    together = Seen(np.array([value for value, _ in pairs]), np.array([float(count) for _, count in pairs]))
    apart = [value for value, count in pairs for _ in range(count)]
    shuffle.shuffle(apart)
    assert log_capital(Seen(np.array(apart), np.ones(len(apart))), 0.3) == pytest.approx(log_capital(together, 0.3))
