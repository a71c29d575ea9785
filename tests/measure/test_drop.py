"""Evidence of a drop, against published examples, enumeration of all tables and simulation."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
from scipy import optimize, stats

from tightship.measure.drop import FEWEST_ITEMS, WIDEST, Differences, Discordance, DropEvidence, Replicates, _score


def differences(values: np.ndarray, allowed: float) -> Differences:
    return Differences(len(values), allowed, values, float(values.max()))


def score(n_lost: int, n_gained: int, n_items: int, drop: float) -> float:
    return float(_score(np.array(n_lost), np.array(n_gained), n_items, drop)[0])


@cache
def accepts(n_items: int, allowed: float, n_lost: int, n_gained: int, alpha: float = 0.05) -> bool:
    return Discordance(n_items, allowed, n_lost, n_gained).p_value <= alpha


def most_lost(n_items: int, allowed: float, gained: np.ndarray) -> np.ndarray:
    """For each number of gained items the largest number of lost ones that is accepted; -1 where none is."""
    limits, last = [], -1
    for n_gained in gained:
        while last + 1 + n_gained <= n_items and accepts(n_items, allowed, last + 1, int(n_gained)):
            last += 1
        while last >= 0 and not accepts(n_items, allowed, last, int(n_gained)):
            last -= 1
        limits.append(last)
    return np.array(limits)


def error_rate(n_items: int, allowed: float, rate: float) -> float:
    """Exact probability of acceptance where the drop is `allowed` and `rate` of the items differ."""
    p_gained = (rate - allowed) / 2
    counts = stats.binom(n_items, p_gained)
    gained = np.arange(int(counts.ppf(1e-7)), int(counts.isf(1e-7)) + 1)
    share = (p_gained + allowed) / (1 - p_gained)
    lost = stats.binom.cdf(most_lost(n_items, allowed, gained), n_items - gained, share)
    return float((counts.pmf(gained) * lost).sum())


def wald_accepts(n_items: int, allowed: float, n_lost: int, n_gained: int) -> bool:
    net = n_lost - n_gained
    spread = math.sqrt(max(n_lost + n_gained - net**2 / n_items, 0))
    return (net + 1.645 * spread) / n_items <= allowed


def test_the_score_is_that_of_tangos_published_example() -> None:
    # Tango 1998, section 6.1: 44 patients, 1 lost, none gained, a margin of 0.1: Z = 1.709, p = 0.044.
    z = score(1, 0, 44, 0.1)
    assert round(-z, 3) == 1.709
    assert round(stats.norm.cdf(z), 3) == 0.044


def test_the_score_interval_is_that_of_the_r_package_propcis() -> None:
    # scoreci.mp(25, 28, 618, conf.level = 0.90) prints -0.0148 and 0.0247.
    z = stats.norm.isf(0.05)
    low = optimize.brentq(lambda drop: score(28, 25, 618, drop) - z, -0.5, 0.0)
    high = optimize.brentq(lambda drop: score(28, 25, 618, drop) + z, 0.01, 0.5)
    assert (round(low, 4), round(high, 4)) == (-0.0148, 0.0247)


def test_without_a_margin_the_p_value_is_that_of_the_exact_unconditional_mcnemar_test() -> None:
    # Cavo et al. 2012: 161 patients, 6 and 16 discordant; the R package contingencytables prints P = 0.034053 for both
    # sides, of which 1e-4 is its allowance for the nuisance parameter (ours: 1e-5 per side).
    p_value = Discordance(161, 0.0, 6, 16).p_value
    assert 2 * (p_value - 1e-5) == pytest.approx(0.034053 - 1e-4, abs=5e-5)


@pytest.mark.parametrize(
    ("n_items", "n_lost", "n_gained"), [(12, 0, 0), (12, 1, 2), (20, 3, 6), (20, 0, 1), (25, 2, 2)]
)
@pytest.mark.parametrize("allowed", [0.05, 0.2])
def test_the_p_value_is_the_largest_probability_over_all_tables(
    n_items: int, n_lost: int, n_gained: int, allowed: float
) -> None:
    found = Discordance(n_items, allowed, n_lost, n_gained)
    tables = np.array([(b, c) for b in range(n_items + 1) for c in range(n_items + 1 - b)])
    scores = np.array([score(b, c, n_items, allowed) for b, c in tables])
    as_good = tables[scores <= score(n_lost, n_gained, n_items, allowed) + 1e-9]
    interval = stats.binomtest(n_lost + n_gained, n_items).proportion_ci(1 - 1e-5, method="exact")
    cells = np.column_stack([as_good, n_items - as_good.sum(axis=1)])
    largest = max(
        stats.multinomial.pmf(cells, n_items, [(rate + allowed) / 2, (rate - allowed) / 2, 1 - rate]).sum()
        for rate in np.linspace(max(interval.low, allowed), min(interval.high, 1 - 1e-12), 400)
    )
    # Both maxima are over grids; they differ by 1e-3 of the maximum at most.
    assert found.p_value == pytest.approx(largest + 1e-5, rel=1e-3)


@pytest.mark.parametrize("allowed", [0.02, 0.1, 0.2])
def test_no_true_drop_at_the_limit_is_accepted_more_often_than_stated_by_enumeration(allowed: float) -> None:
    n_items = 25
    tables = [(b, c) for b in range(n_items + 1) for c in range(n_items + 1 - b)]
    exact = np.array([(b, c, n_items - b - c) for b, c in tables if accepts(n_items, allowed, b, c)])
    wald = np.array([(b, c, n_items - b - c) for b, c in tables if wald_accepts(n_items, allowed, b, c)])
    rates = np.linspace(allowed, 1 - 1e-9, 100)
    chances = [[(rate + allowed) / 2, (rate - allowed) / 2, 1 - rate] for rate in rates]
    sizes = [
        max(stats.multinomial.pmf(cells, n_items, chance).sum() for chance in chances) if len(cells) else 0.0
        for cells in (exact, wald)
    ]
    assert sizes[0] <= 0.05
    assert sizes[1] > 0.05


@pytest.mark.parametrize("rate", [0.011, 0.05, 0.2])
@pytest.mark.parametrize("n_items", [100, 300])
def test_a_true_drop_at_the_limit_is_accepted_in_at_most_5_percent(n_items: int, rate: float) -> None:
    assert error_rate(n_items, 0.01, rate) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("n_items", [100, 300, 1000, 5000])
@pytest.mark.parametrize("allowed", [0.005, 0.01, 0.02, 0.05])
def test_a_true_drop_at_the_limit_is_accepted_in_at_most_5_percent_at_all_sizes(n_items: int, allowed: float) -> None:
    rates = [
        rate for rate in (0.002, 0.005, 0.0052, 0.01, 0.0105, 0.02, 0.022, 0.05, 0.06, 0.1, 0.2) if rate >= allowed
    ]
    assert max(error_rate(n_items, allowed, rate) for rate in rates) <= 0.05


def test_no_item_that_differs_is_no_proof_of_no_drop() -> None:
    # The rule of three: with no loss in n items the drop may be 1 - 0.05^(1/n).
    found = Discordance(299, 0.01, 0, 0).test(0.05)
    assert found.passed
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 299), abs=2e-5)
    assert not Discordance(298, 0.01, 0, 0).test(0.05).passed


def test_a_candidate_that_gains_more_than_it_loses_has_a_negative_bound() -> None:
    found = Discordance(1000, 0.01, 5, 60).test(0.05)
    assert found.passed and -0.055 < found.upper < -0.03


@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_p_value_and_bound_agree_for_every_kind_of_evidence(alpha: float) -> None:
    rng = np.random.default_rng(4)
    every: list[DropEvidence] = []
    for _ in range(20):
        n_lost, n_gained, _same = rng.multinomial(400, [0.02, 0.02, 0.96])
        every.append(Discordance(400, float(rng.uniform(0.0, 0.06)), int(n_lost), int(n_gained)))
        every.append(differences(rng.lognormal(0, 1, 80), float(rng.uniform(1.2, 3.5))))
        every.append(Replicates(100, float(rng.uniform(-1, 3)), 0.5, rng.normal(0.5, 0.5, 999)))
    n_passed = 0
    for entry in every:
        found = entry.test(alpha)
        raw = entry.upper(alpha)
        n_passed += found.passed
        assert found.passed == (found.p_value <= alpha)
        # 1e-6: the bound of counts is found by root finding.
        assert found.upper == pytest.approx(raw, abs=1e-6)
    assert 5 < n_passed < 55


def test_a_stricter_level_gives_a_wider_bound() -> None:
    for entry in (Discordance(500, 0.01, 6, 4), differences(np.random.default_rng(5).exponential(1, 100), 1.0)):
        assert entry.upper(0.005) > entry.upper(0.05) > entry.drop


@pytest.mark.parametrize("n_items", [50, 300])
def test_skewed_differences_at_the_limit_are_accepted_in_at_most_5_percent(n_items: int) -> None:
    rng = np.random.default_rng(6)
    samples = rng.lognormal(0, 1, (2000, n_items))
    limit = math.exp(0.5)  # the true mean
    n_wrong = sum(differences(sample, limit).p_value <= 0.05 for sample in samples)
    student = (stats.ttest_1samp(samples, limit, axis=1, alternative="less").pvalue <= 0.05).mean()
    # Three standard errors of 2,000 samples are 1.5 %; Student's t is the check that the samples are hard.
    assert n_wrong / len(samples) <= 0.05 + 0.015
    assert student > 0.075


def test_differences_that_are_all_zero_show_no_drop() -> None:
    found = differences(np.zeros(FEWEST_ITEMS), 0.01).test(0.05)
    assert found.passed and found.upper == 0.0 and found.p_value == 0.0


def test_the_worst_item_that_may_come_counts_though_it_was_not_seen() -> None:
    calm = Differences(100, 0.01, np.zeros(100), 0.0).test(0.05)
    lumpy = Differences(100, 0.01, np.zeros(100), 1.0).test(0.05)
    assert calm.passed and not lumpy.passed and lumpy.n_needed is not None


def test_too_few_items_decide_nothing_and_say_how_many_would() -> None:
    few = np.full(FEWEST_ITEMS - 1, 1e-6)
    for entry in (differences(few, 0.01), Replicates(len(few), 0.01, 0.0, np.zeros(999))):
        found = entry.test(0.05)
        assert not found.passed and found.p_value == 1.0 and found.upper == WIDEST
        assert found.n_needed is not None and found.n_needed >= FEWEST_ITEMS


def test_a_drop_above_what_is_allowed_needs_no_more_items() -> None:
    assert Discordance(1000, 0.01, 40, 10).test(0.05).n_needed is None
    assert differences(np.random.default_rng(7).exponential(1, 100), 0.5).test(0.05).n_needed is None


def test_the_number_needed_follows_the_rule_of_the_facts() -> None:
    # 6.2 times the discordance over the squared room, at 95 % confidence and 80 % power.
    found = Discordance(1000, 0.01, 50, 50).test(0.05)
    assert found.n_needed == pytest.approx(6.2 * 0.1 / 0.01**2, rel=0.02)


@pytest.mark.parametrize(("rate", "drop", "allowed"), [(0.02, 0.0, 0.01), (0.05, 0.002, 0.02), (0.04, 0.0, 0.03)])
def test_with_the_number_needed_about_four_in_five_tests_pass(rate: float, drop: float, allowed: float) -> None:
    chances = [(rate + drop) / 2, (rate - drop) / 2, 1 - rate]
    seen = Discordance(10_000, allowed, round(10_000 * chances[0]), round(10_000 * chances[1]))
    n_items = math.ceil(seen.n_at(0.05))
    tables = np.random.default_rng(8).multinomial(n_items, chances, 400)
    power = np.mean([accepts(n_items, allowed, int(b), int(c)) for b, c, _ in tables])
    # 80 % give or take the normal approximation and three standard errors of 400 samples (6 %).
    assert 0.70 < power < 0.90


def test_with_the_number_needed_about_four_in_five_tests_of_skewed_differences_pass() -> None:
    rng = np.random.default_rng(9)
    mean, allowed = math.exp(0.125), math.exp(0.125) * 1.15
    n_items = math.ceil(differences(rng.lognormal(0, 0.5, 20_000), allowed).n_at(0.05))
    power = np.mean([differences(rng.lognormal(0, 0.5, n_items), allowed).p_value <= 0.05 for _ in range(400)])
    assert mean < allowed and 0.70 < power < 0.92


def test_a_bootstrap_counts_itself_among_its_resamples() -> None:
    found = Replicates(100, 1.0, 0.0, np.zeros(99))
    assert found.p_value == 1 / 100
    assert found.upper(0.005) == WIDEST  # 99 resamples cannot show more than 99 %


def test_every_pair_of_kinds_names_its_method() -> None:
    names = {entry.method for entry in (Discordance(9, 0.1, 0, 0), Replicates(9, 0.1, 0, np.zeros(9)))}
    names.add(differences(np.zeros(9), 0.1).method)
    assert len(names) == 3 and all(itertools.chain(names))
