"""Intervals and corrections, against enumeration, published examples and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import signal, stats

from tightship.errors import UsageError
from tightship.measure import statistics


def autocorrelated(n: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """Noise whose neighbours correlate by `rho`, with standard deviation 1."""
    steps = rng.standard_normal(n) * np.sqrt(1 - rho**2)
    steps[0] = rng.standard_normal()
    return np.asarray(signal.lfilter([1.0], [1.0, -rho], steps))


@pytest.mark.parametrize("n", [6, 7, 12, 25, 64])
def test_the_interval_of_the_median_is_the_tightest_pair_of_order_statistics_that_covers_it(n: int) -> None:
    low, high = statistics.median_interval(np.arange(1.0, n + 1), 0.95)
    rank = int(low)
    assert high == n + 1 - rank
    below = stats.binom(n, 0.5)
    assert below.cdf(rank - 1) <= 0.025 < below.cdf(rank)


def test_too_few_values_for_an_interval_of_the_median_are_refused_with_the_number_needed() -> None:
    with pytest.raises(UsageError, match="at 95% needs 6 values, found 5; run more rounds"):
        statistics.median_interval(np.arange(5.0))


def test_blocks_of_independent_values_stay_as_many_as_they_can_be() -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    assert len(statistics.block_medians(values)) == 64


def test_blocks_of_values_that_come_in_bursts_are_merged() -> None:
    values = autocorrelated(1000, 0.98, np.random.default_rng(0))
    assert len(statistics.block_medians(values)) <= 16


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.9])
def test_two_equal_things_under_bursts_of_noise_are_told_apart_in_at_most_5_percent(rho: float) -> None:
    rng = np.random.default_rng(1)
    n_trials, n_wrong, n_wrong_raw = 200, 0, 0
    for _ in range(n_trials):
        values = autocorrelated(300, rho, rng)
        low, high = statistics.median_interval(statistics.block_medians(values))
        n_wrong += low > 0 or high < 0
        low, high = statistics.median_interval(values)
        n_wrong_raw += low > 0 or high < 0
    # 5 % plus three standard errors of 200 trials; single values under bursts err far more often.
    assert n_wrong / n_trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_trials)
    assert rho < 0.8 or n_wrong_raw / n_trials > 0.3


@pytest.mark.parametrize(
    ("n_right", "n_items", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_published(n_right: int, n_items: int, low: float, high: float) -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3; four decimals are printed.
    assert statistics.wilson_interval(n_right, n_items) == pytest.approx((low, high), abs=6e-5)


def test_the_tail_of_a_symmetric_sample_is_that_of_students_t() -> None:
    half = np.array([0.1, 0.4, 0.5, 1.3, 2.0])
    values = np.concatenate([1 - half, 1 + half])
    expected = stats.ttest_1samp(values, 1.5, alternative="less").pvalue
    assert statistics.mean_tail(values, 1.5) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("tail", [0.001, 0.05, 0.5, 0.975])
def test_the_bound_of_the_mean_inverts_its_tail(tail: float, skewed: bool) -> None:
    values = np.random.default_rng(2).lognormal(0, 1, 60) * (1 if skewed else -1)
    assert statistics.mean_tail(values, statistics.mean_bound(values, tail)) == pytest.approx(tail, rel=1e-9)


def test_the_mean_of_values_that_are_all_the_same_is_known() -> None:
    values = np.full(30, 0.02)
    assert statistics.mean_bound(values, 0.05) == pytest.approx(0.02)
    assert statistics.mean_tail(values, 0.03) == 0.0
    assert statistics.mean_tail(values, 0.01) == 1.0


def test_holm_rejects_step_by_step_and_stops() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005], 4, 0.05) == [True, False, False, True]


def test_members_of_the_family_that_are_not_tested_make_the_levels_stricter() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005], 8, 0.05) == [False, False, False, True]


def test_a_family_smaller_than_its_tests_is_refused() -> None:
    with pytest.raises(UsageError, match="a family of 1 tests cannot hold 2 p-values"):
        statistics.holm([0.1, 0.2], 1, 0.05)


def test_holm_agrees_with_the_closed_test_that_it_is_a_short_cut_of() -> None:
    # Marcus, Peritz and Gabriel 1976: reject where every set of hypotheses that holds it is rejected by Bonferroni.
    rng = np.random.default_rng(3)
    for _ in range(300):
        p_values = list(rng.uniform(0, 0.06, 4).round(3))
        closed = [
            all(
                min(p_values[member] for member in members) <= 0.05 / len(members)
                for size in range(1, 5)
                for members in itertools.combinations(range(4), size)
                if index in members
            )
            for index in range(4)
        ]
        assert statistics.holm(p_values, 4, 0.05) == closed


def test_levels_and_decisions_of_holm_agree() -> None:
    p_values = [0.2, 0.001, 0.013, 0.9]
    levels = statistics.holm_levels(p_values, 4, 0.05)
    assert levels == pytest.approx([0.025, 0.0125, 0.05 / 3, 0.025])
