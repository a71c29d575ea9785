"""Several sessions timed turn by turn on the same inputs, so that what disturbs one disturbs all.

    round 1:  [B settle|run run ..] [A settle|run run ..] [C settle|run run ..]
    round 2:  [C settle|run run ..] [A settle|run run ..] [B settle|run run ..]     orders come in mirrored pairs

A session runs a few times before it is timed in its turn: idle threads of another engine spin for some milliseconds
(ONNX Runtime's cost OpenVINO 3.7 ms in its first run on two cores), and caches and its own threads are cold.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tightship.core.measurement import Latency, Ratio
from tightship.core.progress import SILENT, Progress
from tightship.core.session import Arrays, Session
from tightship.errors import UsageError
from tightship.measure import statistics

__all__ = ["Timings", "time_interleaved"]

SAMPLE_S = 200e-6
"""A sample lasts at least this long, a thousand times the clock's own cost; quick models run several times in it."""

TURN_S = 5e-3
"""A session is timed for at least this long before the next has its turn, and settles for as long before."""

SLOW_S = 50e-3
"""A run as long as this settles by waiting; a run that is not timed would cost too much."""

WARM_UP_S = 0.5
STEADY = 0.05


@dataclass(frozen=True)
class Timings:
    """What was timed: `rounds_ms` [n_rounds, n_sessions] holds the median of each turn, `samples_ms` of each session
    every sample (the mean of `n_inner` runs), all in order of time; each run was of `batch` items."""

    rounds_ms: np.ndarray
    samples_ms: tuple[np.ndarray, ...]
    n_inner: tuple[int, ...]
    batch: int

    def latency(self, index: int) -> Latency:
        """Distribution of the time of one session's run."""
        samples = self.samples_ms[index]
        low, median, high, p95 = (float(value) for value in np.quantile(samples, [0.25, 0.5, 0.75, 0.95]))
        return Latency(median, p95, low, high, len(samples) * self.n_inner[index], self.batch)

    def ratio(self, index: int, baseline: int = 0, confidence: float = 0.95) -> Ratio:
        """Time of one session over that of another: the median over rounds of the ratio within the round.

        Its interval holds for any distribution of the noise, and for noise that comes in bursts: it is that of the
        median of blocks of rounds, which are made as long as it takes for them to be independent
        (`statistics.block_medians`, `statistics.median_interval`).
        """
        ratios = self.rounds_ms[:, index] / self.rounds_ms[:, baseline]
        blocks = statistics.block_medians(ratios)
        low, high = statistics.median_interval(blocks, confidence)
        median = float(np.median(ratios))
        return Ratio(median, min(low, median), max(high, median), len(ratios), confidence)


def time_interleaved(
    sessions: Sequence[Session],
    inputs: Arrays | Sequence[Arrays],
    *,
    seconds: float = 1.0,
    min_rounds: int = 10,
    max_rounds: int = 1000,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Timings:
    """Time `sessions` turn by turn for about `seconds` each, settling not counted.

    `inputs` are fed to all alike; of several sets, one per round. Garbage collection is off meanwhile. Sessions that
    share a processor must not be used elsewhere at the same time. Raises `EngineError` where a session fails.
    """
    feeds = [inputs] if isinstance(inputs, dict) else list(inputs)
    if not sessions or not feeds:
        raise UsageError(f"timing needs sessions and inputs, found {len(sessions)} sessions and {len(feeds)} inputs")
    rng = np.random.default_rng(seed)
    rounds: list[list[float]] = []
    samples: list[list[float]] = [[] for _ in sessions]
    wanted_s = seconds * len(sessions)
    with _no_collection(), progress.step(f"timing {len(sessions)} sessions", round(wanted_s * 1e3)) as advance:
        turns = [_Turn(session, _warm_up(session, feeds[0])) for session in sessions]
        spent_s, order = 0.0, np.arange(len(sessions))
        while len(rounds) < max_rounds and (len(rounds) < min_rounds or spent_s < wanted_s):
            order = order[::-1] if len(rounds) % 2 else rng.permutation(len(sessions))
            feed = feeds[len(rounds) % len(feeds)]
            medians, before_s = [0.0] * len(sessions), spent_s
            for index in order:
                found = turns[index].take(feed)
                samples[index] += found
                medians[index] = float(np.median(found))
                spent_s += sum(found) * turns[index].n_inner / 1e3
            rounds.append(medians)
            advance(round((spent_s - before_s) * 1e3))
    return Timings(
        np.array(rounds),
        tuple(np.array(entry) for entry in samples),
        tuple(turn.n_inner for turn in turns),
        _batch(feeds[0]),
    )


@dataclass(frozen=True)
class _Turn:
    """How one session is timed in its turn, from how long a run of it takes undisturbed.

    What is decided here must not depend on the noise of the moment: the same session is to be timed in the same way
    each time, or it would differ from itself.
    """

    session: Session
    run_s: float

    @property
    def n_inner(self) -> int:
        runs = max(1.0, SAMPLE_S / self.run_s)
        return int(2 ** math.ceil(math.log2(runs)))

    def take(self, feed: Arrays) -> list[float]:
        """Settle, then time for one turn; return samples in milliseconds per run."""
        self._settle(feed)
        end = time.perf_counter() + TURN_S
        samples = [_time(self.session.run, feed, self.n_inner) * 1e3]
        while time.perf_counter() < end:
            samples.append(_time(self.session.run, feed, self.n_inner) * 1e3)
        return samples

    def _settle(self, feed: Arrays) -> None:
        if self.run_s >= SLOW_S:
            time.sleep(TURN_S)
            return
        end = time.perf_counter() + TURN_S
        self.session.run(feed)
        while time.perf_counter() < end:
            self.session.run(feed)


def _warm_up(session: Session, feed: Arrays) -> float:
    """Run until the time of a run no longer falls (at most half a second, at least twice); return the shortest."""
    end = time.perf_counter() + WARM_UP_S
    times = [_time(session.run, feed, 1) for _ in range(2)]
    while time.perf_counter() < end:
        times.append(_time(session.run, feed, 1))
        recent, before = times[-3:], times[-6:-3]
        if before and np.median(recent) > (1 - STEADY) * np.median(before) and len(times) >= 12:
            break
    return min(times)


def _time(run: Callable[[Arrays], object], feed: Arrays, n_inner: int) -> float:
    """Mean time of `n_inner` runs in seconds."""
    start = time.perf_counter_ns()
    for _ in range(n_inner):
        run(feed)
    return (time.perf_counter_ns() - start) / n_inner * 1e-9


def _batch(feed: Arrays) -> int:
    return next((len(array) for array in feed.values() if array.ndim), 1)


@contextmanager
def _no_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
