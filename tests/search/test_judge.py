"""The verdicts, from numbers alone."""

from __future__ import annotations

import pytest

from tightship.core.budget import Budget
from tightship.core.measurement import Agreement, DropTest, Latency, Measurement, Ratio
from tightship.core.plan import Candidate, Status
from tightship.core.target import Target
from tightship.errors import UsageError
from tightship.search import judge

SOURCE = Measurement(1000, Latency(1.0, 1.1, 0.9, 1.05, 100, 1))


def measured(size_bytes: int = 500, ratio: float = 0.5, noise: float = 0.05) -> Measurement:
    latency = Latency(ratio, ratio * 1.1, ratio * 0.9, ratio * 1.05, 100, 1)
    return Measurement(size_bytes, latency, Ratio(ratio, ratio - noise, ratio + noise, 50))


def candidate(name: str, size_bytes: int, ratio: float, status: Status = "accepted") -> Candidate:
    return Candidate(name, (), Target(), status, "", measured(size_bytes, ratio))


def drop(estimate: float, upper: float, n_needed: int | None = None) -> DropTest:
    return DropTest(estimate, upper, 0.01, 0.5, 0.95, 800, n_needed, "exact")


def test_a_faster_candidate_goes_on() -> None:
    assert judge.not_worth_it(measured(), SOURCE, Budget()) is None


def test_a_candidate_within_the_noise_of_the_source_is_not_faster() -> None:
    reason = judge.not_worth_it(measured(ratio=0.97, noise=0.05), SOURCE, Budget())
    assert reason == "not faster by more than the noise: 0.97 of its time (0.92 to 1.02)"


def test_with_goal_size_a_candidate_must_be_smaller() -> None:
    reason = judge.not_worth_it(measured(size_bytes=1000), SOURCE, Budget(goal="size"))
    assert reason is not None and "not smaller than the source: 1,000 bytes" in reason


def test_with_goal_size_a_slower_candidate_is_refused() -> None:
    reason = judge.not_worth_it(measured(ratio=1.5), SOURCE, Budget(goal="size"))
    assert reason is not None and reason.startswith("slower than the source: 1.50 of its time")


def test_with_goal_size_a_stated_latency_limit_allows_slower() -> None:
    assert judge.not_worth_it(measured(ratio=1.5), SOURCE, Budget(goal="size", max_latency_ms=2)) is None


def test_with_goal_size_a_candidate_within_the_noise_in_time_goes_on() -> None:
    assert judge.not_worth_it(measured(ratio=1.02), SOURCE, Budget(goal="size")) is None


def test_limits_are_kept_whatever_the_goal() -> None:
    assert "0.00 MB, 0.0001 MB allowed" in str(judge.not_worth_it(measured(), SOURCE, Budget(max_size_mb=1e-4)))
    assert "0.5 ms, 0.1 ms allowed" in str(judge.not_worth_it(measured(), SOURCE, Budget(max_latency_ms=0.1)))


def test_a_bound_within_the_budget_is_accepted() -> None:
    assert judge.quality_verdict(drop(0.001, 0.009))[0] == "accepted"


def test_a_bound_above_the_budget_with_too_few_items_is_undecided_and_says_how_many() -> None:
    status, reason = judge.quality_verdict(drop(0.001, 0.02, n_needed=2000))
    assert status == "undecided" and reason.startswith("not enough data: 2000 items needed, 800 are there")


def test_a_drop_above_the_budget_is_refused() -> None:
    assert judge.quality_verdict(drop(0.03, 0.05))[0] == "refused"


def test_candidates_are_ranked_by_the_goal() -> None:
    small, fast = candidate("small", 100, 0.9), candidate("fast", 500, 0.3)
    assert [entry.name for entry in judge.rank([small, fast], Budget(goal="latency"))] == ["fast", "small"]
    assert [entry.name for entry in judge.rank([small, fast], Budget(goal="size"))] == ["small", "fast"]


def test_the_front_holds_what_no_other_usable_candidate_beats_in_both() -> None:
    entries = [
        candidate("source", 1000, 1.0, "baseline"),
        candidate("small", 100, 0.9),
        candidate("fast", 500, 0.3, "chosen"),
        candidate("beaten", 600, 0.4),
        candidate("wrong", 50, 0.1, "refused"),
    ]
    assert judge.pareto_front(entries) == {"small", "fast"}


def test_a_model_that_should_be_the_same_and_is_not_is_told_by_output() -> None:
    found = Agreement(False, 30.0, 0.25, 12.0, "logits", 8)
    assert "output 'logits' is off by 0.25" in judge.too_different(found)


@pytest.mark.parametrize("values", [{"max_drop": -1.0}, {"confidence": 1.0}, {"max_size_mb": 0.0}])
def test_a_budget_that_makes_no_sense_is_a_usage_error(values: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Budget(**values)  # type: ignore[arg-type]
