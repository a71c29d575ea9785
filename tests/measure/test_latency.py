"""Interleaved timing, under a clock that only sessions move: no test here waits or measures real time."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Mapping
from types import SimpleNamespace, TracebackType
from typing import Self

import numpy as np
import pytest
from scipy import signal

from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.errors import EngineError, UsageError
from tightship.measure import latency
from tightship.measure.latency import Timings, time_interleaved

FEED = {"x": np.zeros((3, 2), np.float32)}


class Clock:
    """Time in seconds, and who ran when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    @property
    def module(self) -> SimpleNamespace:
        return SimpleNamespace(
            perf_counter=lambda: self.now, perf_counter_ns=lambda: round(self.now * 1e9), sleep=self.sleep
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.ran.append("sleep")


class Timed:
    """A session whose run moves the clock by what `duration` says (seconds)."""

    def __init__(self, clock: Clock, name: str, duration: Callable[[], float]) -> None:
        self.target, self.inputs, self.outputs = Target(), (TensorSpec("x", "float32", ("n", 2)),), ()
        self.name, self.feeds, self._clock, self._duration = name, [0], clock, duration

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._clock.now += self._duration()
        self._clock.ran.append(self.name)
        self.feeds.append(len(inputs["x"]))
        return {}

    def close(self) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(latency, "time", found.module)
    return found


def steady(clock: Clock, name: str, milliseconds: float) -> Timed:
    return Timed(clock, name, lambda: milliseconds / 1e3)


def turns(ran: list[str]) -> list[str]:
    """Who ran, without repetitions."""
    return [name for place, name in enumerate(ran) if place == 0 or ran[place - 1] != name]


def test_latency_and_ratio_of_steady_sessions_are_exact(clock: Clock) -> None:
    timings = time_interleaved([steady(clock, "a", 4), steady(clock, "b", 1)], FEED, seconds=0.5)
    found = timings.latency(0)
    assert (found.median_ms, found.p95_ms, found.low_ms, found.high_ms) == pytest.approx((4, 4, 4, 4))
    assert found.batch == 3
    ratio = timings.ratio(1)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((0.25, 0.25, 0.25))
    assert ratio.faster and not ratio.slower and timings.ratio(0, 1).median == pytest.approx(4)


def test_quantiles_are_those_of_single_runs(clock: Clock) -> None:
    times = iter(np.resize(np.arange(1, 101), 100_000) / 1e3)
    found = time_interleaved([Timed(clock, "a", lambda: float(next(times)))], FEED, seconds=40).latency(0)
    # Times go through 1..100 ms evenly; warm-up and settling take some out of a hundred.
    assert found.median_ms == pytest.approx(50, abs=5) and found.p95_ms == pytest.approx(95, abs=3)
    assert found.low_ms == pytest.approx(25, abs=5) and found.high_ms == pytest.approx(75, abs=5)


def test_every_session_has_a_turn_in_every_round_and_no_place_is_favoured(clock: Clock) -> None:
    names = ["a", "b", "c"]
    sessions = [steady(clock, name, 2) for name in names]
    timings = time_interleaved(sessions, FEED, seconds=2.0)
    order = turns(clock.ran)
    assert timings.rounds_ms.shape[1] == 3 and len(timings.rounds_ms) >= 300
    follows = [(before, after) for before, after in itertools.pairwise(order)]
    for before in names:
        counts = [follows.count((before, after)) for after in names if after != before]
        assert min(counts) > 0.35 * sum(counts)


def test_what_a_predecessor_leaves_behind_is_not_timed(clock: Clock) -> None:
    # As ONNX Runtime's spinning threads do to OpenVINO: the first run after another session's takes 3.7 ms more.
    def duration() -> float:
        return 0.2e-3 + (3.7e-3 if clock.ran[-1:] == ["spinning"] else 0)

    timings = time_interleaved([Timed(clock, "spinning", lambda: 0.1e-3), Timed(clock, "b", duration)], FEED)
    assert timings.latency(1).p95_ms == pytest.approx(0.2)


def test_slow_sessions_settle_by_waiting_and_not_by_running(clock: Clock) -> None:
    time_interleaved([steady(clock, "a", 200), steady(clock, "b", 200)], FEED, seconds=0.1)
    tail = clock.ran[-40:]
    assert tail.count("sleep") == 20 and tail.count("a") == 10 and tail.count("b") == 10


def test_quick_sessions_run_several_times_per_sample(clock: Clock) -> None:
    timings = time_interleaved([steady(clock, "a", 0.01)], FEED, seconds=0.1)
    assert timings.n_inner == (32,)  # a power of two that makes 0.2 ms at least
    found = timings.latency(0)
    assert found.median_ms == pytest.approx(0.01) and found.n_runs == 32 * len(timings.samples_ms[0])


def test_noise_in_the_warm_up_does_not_change_how_a_session_is_timed(clock: Clock) -> None:
    late = iter([30e-3, 1e-3, 30e-3] * 3)
    disturbed = Timed(clock, "disturbed", lambda: next(late, 0.05e-3))
    timings = time_interleaved([steady(clock, "calm", 0.05), disturbed], FEED)
    assert timings.n_inner[0] == timings.n_inner[1]
    assert timings.ratio(1).median == pytest.approx(1) and not timings.ratio(1).slower


def test_the_number_of_rounds_follows_the_seconds_within_its_limits(clock: Clock) -> None:
    session = steady(clock, "a", 5)
    assert len(time_interleaved([session], FEED, seconds=1.0).rounds_ms) == pytest.approx(200, abs=2)
    assert len(time_interleaved([session], FEED, seconds=0.0).rounds_ms) == 10
    assert len(time_interleaved([session], FEED, seconds=9.0, max_rounds=50).rounds_ms) == 50


def test_several_inputs_are_fed_in_turn_to_all_sessions_alike(clock: Clock) -> None:
    a, b = steady(clock, "a", 20), steady(clock, "b", 20)
    feeds = [{"x": np.zeros((length, 2), np.float32)} for length in (1, 2)]
    time_interleaved([a, b], feeds, seconds=0.2)
    assert a.feeds[-20:] == b.feeds[-20:] == [1, 1, 2, 2] * 5


def test_collection_is_off_while_timing_and_on_afterwards_even_after_a_failure(clock: Clock) -> None:
    seen = set()

    def duration() -> float:
        seen.add(gc.isenabled())
        return 1e-3

    time_interleaved([Timed(clock, "a", duration)], FEED, seconds=0.05)
    assert seen == {False} and gc.isenabled()

    def failing() -> float:
        raise EngineError("the engine fell over")

    with pytest.raises(EngineError, match="fell over"):
        time_interleaved([Timed(clock, "a", failing)], FEED)
    assert gc.isenabled()


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(UsageError, match="found 0 sessions and 1 inputs"):
        time_interleaved([], FEED)


def test_too_few_rounds_give_no_interval(clock: Clock) -> None:
    timings = time_interleaved([steady(clock, "a", 1), steady(clock, "b", 1)], FEED, min_rounds=3, max_rounds=3)
    with pytest.raises(UsageError, match="needs 6 values, found 3"):
        timings.ratio(1)


def synthetic(rng: np.random.Generator, effect: float, n_rounds: int = 200) -> Timings:
    """Two sessions on a shared machine: slow drift that hits both, bursts that hit each alone, rare outliers."""
    times = np.empty((n_rounds, 2))
    drift = signal.lfilter([0.14], [1, -0.99], rng.standard_normal(n_rounds))
    for column in range(2):
        burst = signal.lfilter([0.6], [1, -0.8], rng.standard_normal(n_rounds)) * 0.02
        outlier = (rng.random(n_rounds) < 0.05) * rng.exponential(1.0, n_rounds)
        times[:, column] = np.exp(0.1 * drift + burst) * (1 + outlier) * (1 + effect * column)
    return Timings(times, (times[:, 0], times[:, 1]), (1, 1), 1)


def test_a_session_is_not_faster_or_slower_than_itself_in_more_than_5_percent() -> None:
    rng = np.random.default_rng(0)
    ratios = [synthetic(rng, effect=0.0).ratio(1) for _ in range(250)]
    n_wrong = sum(ratio.faster or ratio.slower for ratio in ratios)
    # Three standard errors of 250 comparisons: 4.1 %.
    assert n_wrong / 250 <= 0.05 + 0.041


def test_a_difference_of_five_percent_is_found_and_has_the_right_size() -> None:
    rng = np.random.default_rng(1)
    ratios = [synthetic(rng, effect=-0.05).ratio(1) for _ in range(100)]
    assert sum(ratio.faster for ratio in ratios) > 90
    assert np.median([ratio.median for ratio in ratios]) == pytest.approx(0.95, abs=0.005)
    covered = sum(ratio.low <= 0.95 <= ratio.high for ratio in ratios)
    assert covered >= 88  # 95 of 100, give or take three standard errors
