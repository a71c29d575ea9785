"""Counting what versions do, in one worker."""

from __future__ import annotations

import threading
import timeit

import numpy as np
import pytest

from tightship.serve.observations import (
    DISAGREEMENT,
    LATENCY,
    LATENCY_LEVELS,
    LEVELS,
    OUTCOME,
    Increment,
    Observations,
    latency_level,
    level_seconds,
)
from tightship.serve.rollout.disagreement import MEASURES

Y = {"y": np.array([[1.0, 0.0]])}


@pytest.fixture
def watching() -> Observations:
    observations = Observations()
    observations.watch("net", (7, 2), ("1", "2"), MEASURES["auto"], False)
    return observations


def test_answers_failures_and_latencies_are_counted_per_version(watching: Observations) -> None:
    watching.add("net", "1", 0.010, False)
    watching.add("net", "2", 0.010, True)
    assert set(watching.take()) == {
        Increment(7, 2, "1", OUTCOME, 0, 1),
        Increment(7, 2, "1", LATENCY, latency_level(0.010), 1),
        Increment(7, 2, "2", OUTCOME, 1, 1),
    }


def test_what_was_taken_is_not_given_again(watching: Observations) -> None:
    watching.add("net", "1", 0.010, True)
    assert len(watching.take()) == 1
    assert watching.take() == []


def test_a_step_that_has_ended_still_gives_what_was_counted_in_it(watching: Observations) -> None:
    watching.add("net", "1", 0.010, True)
    watching.watch("net", (7, 3), ("1", "2"), MEASURES["auto"], False)
    watching.add("net", "1", 0.010, True)
    watching.stop("net")
    assert [increment.step for increment in watching.take()] == [2, 3]


def test_models_and_versions_that_are_not_watched_are_not_counted(watching: Observations) -> None:
    watching.add("other", "1", 0.010, False)
    watching.add("net", "7", 0.010, False)
    watching.compare("net", "1", "7", Y, Y)
    assert watching.take() == []


def test_the_latency_of_a_copy_counts_only_where_the_version_answers_nothing_else() -> None:
    for time_copies in (False, True):
        observations = Observations()
        observations.watch("net", (1, 0), ("1", "2"), MEASURES["auto"], time_copies)
        observations.add("net", "2", 0.010, False, shadow=True)
        assert (LATENCY in {increment.kind for increment in observations.take()}) == time_copies


@pytest.mark.parametrize(("answered", "shadow"), [("1", "2"), ("2", "1")])
def test_a_disagreement_is_the_new_versions_whoever_answered(
    watching: Observations, answered: str, shadow: str
) -> None:
    watching.compare("net", answered, shadow, Y, {"y": np.array([[0.0, 1.0]])})
    assert watching.take() == [Increment(7, 2, "2", DISAGREEMENT, LEVELS, 1)]


def test_an_answer_that_cannot_be_compared_differs_wholly(watching: Observations) -> None:
    watching.compare("net", "1", "2", Y, {"z": Y["y"]})
    watching.compare("net", "1", "2", Y, {"y": object()})  # type: ignore[dict-item]
    assert watching.take() == [Increment(7, 2, "2", DISAGREEMENT, LEVELS, 2)]


def test_latencies_are_told_apart_to_a_tenth() -> None:
    for seconds in np.geomspace(1e-6, 1e4, 500):
        low = level_seconds(latency_level(float(seconds)))
        assert low * 0.9999 <= seconds <= low * 1.1
    assert latency_level(0.0) == 0
    assert latency_level(1e12) == LATENCY_LEVELS - 1


def test_nothing_is_lost_where_one_thread_counts_and_another_takes(watching: Observations) -> None:
    taken: list[Increment] = []
    done = threading.Event()

    def take() -> None:
        while not done.is_set():
            taken.extend(watching.take())

    thread = threading.Thread(target=take)
    thread.start()
    for _ in range(30_000):
        watching.add("net", "1", 0.010, False)
    done.set()
    thread.join()
    taken.extend(watching.take())
    assert sum(one.count for one in taken if one.kind == OUTCOME) == 30_000


def test_counting_costs_next_to_nothing_without_a_rollout(watching: Observations) -> None:
    def cost(model: str) -> float:
        return min(timeit.repeat(lambda: watching.add(model, "1", 0.01, False), number=500, repeat=20))

    assert cost("other") < 0.7 * cost("net")  # 0.15 us and 0.7 us on an idle core
