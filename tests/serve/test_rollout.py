"""Rollouts from start to end, with workers whose models are made up: who answers when, and why it ended."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.serve.rollouts import QUICK, House
from tightship.core.specs import TensorSpec
from tightship.errors import StateError, UsageError
from tightship.serve.failures import Conflict, NoSuchModel
from tightship.serve.rollout.records import ABORTED, PREPARING, PROMOTED, ROLLED_BACK, RUNNING
from tightship.serve.rollout.strategies import SWITCH, Limits, make_plan


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, n_workers=2)
    made.serve("1")
    yield made
    made.close()


def shares(house: House) -> set[tuple[str, str | None, float]]:
    routes = [worker.catalogue.routes["net"] for worker in house.workers]
    return {(one.stable, one.candidate, one.share) for one in routes}


def to_step(house: House, step: int) -> None:
    """Answer requests until a canary is in its step (from 0)."""
    house.tick(3)
    for seed in range(step):
        house.answers(2000, seed=seed)
        house.tick(3)


def test_a_canary_takes_its_steps_and_is_promoted_by_itself(house: House) -> None:
    rollout = house.start()
    house.tick(3)
    assert house.find(rollout).state == RUNNING
    assert shares(house) == {("1", "2", 0.05)}
    seen = []
    for seed in range(3):
        seen.append(np.mean([version == "2" for version in house.answers(2000, seed=seed)]))
        house.tick(3)
    assert seen == [pytest.approx(0.05, abs=0.02), pytest.approx(0.5, abs=0.05), 1.0]
    assert house.find(rollout).state == PROMOTED
    assert shares(house) == {("2", None, 0.0)}


def test_the_old_version_stays_loaded_for_a_while_and_then_is_not(house: House) -> None:
    plan = make_plan("blue-green", every_s=0.0, limits=QUICK, keep_old_s=0.3)
    house.start(plan=plan)
    to_step(house, 2)
    assert all(("net", "1") in worker.catalogue.loaded for worker in house.workers)
    time.sleep(0.3)
    house.tick(2)
    assert all(list(worker.catalogue.loaded) == [("net", "2")] for worker in house.workers)


def test_a_version_that_fails_more_often_is_taken_back_and_the_reason_told(house: House) -> None:
    rollout = house.start()
    house.tick(3)
    house.answers(2000, wrong=lambda version: version == "2")
    house.tick(2)
    found = house.find(rollout)
    assert found.state == ROLLED_BACK
    assert found.reason.startswith("errors: 100.00% of ")
    assert "0.00% of" in found.reason and "at most 1.00% more" in found.reason
    assert shares(house) == {("1", None, 0.0)}
    assert all(list(worker.catalogue.loaded) == [("net", "1")] for worker in house.workers)


def test_a_version_that_fails_as_often_as_the_old_one_is_not_taken_back(house: House) -> None:
    rng = np.random.default_rng(0)
    rollout = house.start()
    to_step(house, 0)
    for seed in range(3):
        house.answers(2000, wrong=lambda version: bool(rng.random() < 0.1), seed=seed)
        house.tick(3)
    assert house.find(rollout).state == PROMOTED


def test_a_slower_version_is_taken_back_and_one_that_varies_as_much_is_not(house: House) -> None:
    rng = np.random.default_rng(0)
    rollout = house.start()
    to_step(house, 1)
    house.answers(2000, seconds=lambda version: float(rng.lognormal(-4.6, 0.5)), seed=1)
    house.tick(3)
    assert house.find(rollout).step == 2
    house.answers(3000, seconds=lambda version: float(rng.lognormal(-4.6, 0.5)) * (3 if version == "2" else 1), seed=2)
    house.tick(2)
    found = house.find(rollout)
    assert found.state == ROLLED_BACK
    assert found.reason.startswith("latency: the 95th percentile of version 2 is ")


def test_a_version_that_disagrees_is_taken_back_and_how_far_is_told(house: House) -> None:
    rollout = house.start(plan=make_plan("shadow", every_s=0.0, limits=QUICK))
    house.tick(3)
    observations = house.workers[0].observations
    for i in range(200):
        observations.add("net", "1", 0.01, False)
        observations.add("net", "2", 0.01, False, shadow=True)
        answers = [{"y": np.array([[1.0, 0.0]])}, {"y": np.array([[0.0, 1.0] if i % 4 == 0 else [1.0, 0.0]])}]
        observations.compare("net", "1", "2", *answers)
    house.tick(2)
    found = house.find(rollout)
    assert found.state == ROLLED_BACK
    assert found.reason.startswith("disagreement: 25.00% over 200 requests that versions 1 and 2 both answered")


def test_a_shadow_answers_nothing_until_it_is_promoted(house: House) -> None:
    rollout = house.start(plan=make_plan("shadow", every_s=0.0, limits=QUICK))
    house.tick(3)
    assert set(house.answers(500)) == {"1"}
    house.tick(2)
    assert house.find(rollout).state == PROMOTED
    assert set(house.answers(10)) == {"2"}


def test_a_shadow_is_not_promoted_before_enough_was_compared(house: House) -> None:
    rollout = house.start(plan=make_plan("shadow", every_s=0.0, limits=QUICK))
    house.tick(3)
    house.answers(40)
    house.tick(2)
    assert house.find(rollout).state == RUNNING
    assert "more are needed to show that it is at most 5.00%" in house.rollouts.verdict(house.find(rollout)).reason


def test_blue_green_watches_beside_the_old_version_and_then_takes_all(house: House) -> None:
    rollout = house.start(plan=make_plan("blue-green", every_s=0.0, limits=QUICK))
    house.tick(3)
    assert set(house.answers(1000)) == {"1"}
    house.tick(2)
    assert set(house.answers(1000)) == {"2"}
    house.tick(2)
    assert house.find(rollout).state == PROMOTED


def test_a_rolling_rollout_goes_from_worker_to_worker(house: House) -> None:
    rollout = house.start(plan=make_plan("rolling", [0.5, 1.0], every_s=0.0, limits=QUICK))
    house.tick(3)
    answered = house.answers(1000)
    assert answered == ["2", "1"] * 500
    house.tick(2)
    assert set(house.answers(1000)) == {"2"}
    house.tick(2)
    assert house.find(rollout).state == PROMOTED


def test_a_step_lasts_as_long_as_it_should(house: House) -> None:
    rollout = house.start(plan=make_plan("canary", [0.5, 1.0], every_s=1000.0, limits=QUICK))
    to_step(house, 3)
    assert house.find(rollout).step == 0
    assert re.match(r"step 1 of 2 ends in (1,000|99\d) s", house.rollouts.verdict(house.find(rollout)).reason)


def test_a_step_waits_for_enough_requests_and_a_rollout_not_for_ever(house: House) -> None:
    plan = make_plan("canary", [0.5, 1.0], every_s=0.0, limits=QUICK, give_up_s=0.4)
    rollout = house.start(plan=plan)
    house.tick(3)
    house.answers(10)
    house.tick(2)
    assert house.find(rollout).state == RUNNING
    assert "of 20 requests in this step" in house.rollouts.verdict(house.find(rollout)).reason
    time.sleep(0.4)
    house.tick(2)
    assert house.find(rollout).state == ROLLED_BACK
    assert re.fullmatch(
        r"undecided after \d+ s: version 2 has seen \d+ of 20 requests in this step", house.find(rollout).reason
    )


def test_a_version_that_one_worker_cannot_load_never_answers(house: House) -> None:
    house.workers[1].catalogue.broken["2"] = "its file is damaged"
    rollout = house.start()
    house.tick(3)
    assert house.find(rollout).state == ROLLED_BACK
    assert house.find(rollout).reason == "version 2 could not be loaded: its file is damaged"
    assert all("route 1 2" not in line for worker in house.workers for line in worker.catalogue.log)


@pytest.mark.parametrize(
    ("takes", "reason"),
    [
        (
            (TensorSpec("x", "float32", ("N", 5)),),
            "its input is x: float32[N, 5], and requests come as x: float32[N, 4]",
        ),
        ((TensorSpec("x", "float32", (1, 4)),), "its input is x: float32[1, 4], and requests come as x: float32[N, 4]"),
        ((TensorSpec("x", "int64", ("N", 4)),), "its input is x: int64[N, 4], and requests come as x: float32[N, 4]"),
        ((TensorSpec("z", "float32", ("N", 4)),), "it has no input x"),
        (
            (TensorSpec("x", "float32", ("N", 4)), TensorSpec("mask", "bool", ("N",))),
            "it needs an input mask that requests do not have",
        ),
    ],
)
def test_a_version_that_requests_do_not_fit_never_answers(
    house: House, takes: tuple[TensorSpec, ...], reason: str
) -> None:
    for worker in house.workers:
        worker.catalogue.takes["2"] = takes
    rollout = house.start()
    house.tick(4)
    assert house.find(rollout).reason == f"version 2 could not be loaded: {reason}"
    assert shares(house) == {("1", None, 0.0)}
    assert all(list(worker.catalogue.loaded) == [("net", "1")] for worker in house.workers)


def test_a_version_is_tried_only_when_every_worker_has_it(house: House) -> None:
    rollout = house.start()
    house.workers[0].reconciler.settle(10)
    house.rollouts.step()
    assert house.find(rollout).state == PREPARING
    house.tick(2)
    assert house.find(rollout).state == RUNNING


def test_promoting_by_hand_ends_it_with_the_new_version(house: House) -> None:
    rollout = house.start()
    with pytest.raises(Conflict, match="not loaded everywhere yet"):
        house.rollouts.promote("net", "ben")
    house.tick(3)
    with house.following():
        assert house.rollouts.promote("net", "ben", "it looks good").state == PROMOTED
    assert shares(house) == {("2", None, 0.0)}
    newest = house.state.journal("net")[0]
    assert (newest.who, newest.what, newest.version, newest.why) == ("ben", PROMOTED, "2", "it looks good")
    assert house.find(rollout).reason == "it looks good"


def test_aborting_ends_it_with_the_old_version(house: House) -> None:
    house.start()
    house.tick(3)
    with house.following():
        assert house.rollouts.abort("net", "ben").state == ABORTED
    assert shares(house) == {("1", None, 0.0)}


def test_rolling_back_after_a_promotion_brings_the_version_before(house: House) -> None:
    house.start()
    house.tick(3)
    with house.following():
        house.rollouts.promote("net", "ben")
        third = house.start("3")
        while house.find(third).state == PREPARING:
            time.sleep(0.01)
        house.rollouts.promote("net", "ben")
        assert house.rollouts.rollback("net", "ben", "people complain").new == "2"
        assert house.rollouts.rollback("net", "ben").new == "1"
        with pytest.raises(Conflict, match="no version before 1"):
            house.rollouts.rollback("net", "ben")
    assert shares(house) == {("1", None, 0.0)}


def test_rolling_back_while_a_rollout_runs_ends_it(house: House) -> None:
    house.start()
    house.tick(3)
    with house.following():
        assert house.rollouts.rollback("net", "ben", "no").state == ROLLED_BACK
    assert shares(house) == {("1", None, 0.0)}


def test_one_rollout_of_a_model_at_a_time(house: House) -> None:
    house.start()
    with pytest.raises(Conflict, match="rollout 1 of net to version 2 runs; promote or abort it first"):
        house.start("3")
    assert house.state.desired().models["net"].find("3") is None


def test_what_cannot_be_rolled_out_is_told(house: House) -> None:
    with pytest.raises(Conflict, match="are version 1 of net, which answers already"):
        house.start("1")
    with pytest.raises(NoSuchModel, match=r"did you mean 'net'"):
        house.rollouts.start("nett", house.stored("2"), SWITCH, "ann")
    for verb in (house.rollouts.promote, house.rollouts.abort):
        with pytest.raises(Conflict, match="no rollout of net runs"):
            verb("net", "ann")


def test_workers_that_die_while_a_version_is_tried_take_it_back(house: House) -> None:
    rollout = house.start()
    house.tick(3)
    with house.database.transaction() as connection:
        connection.execute("UPDATE workers SET born = 1")  # other processes, which have ended since
    house.workers = [house.worker()]
    house.tick(2)
    assert house.find(rollout).state == ROLLED_BACK
    assert house.find(rollout).reason == "2 worker processes died while version 2 was in use"


def test_the_journal_tells_who_did_what_and_why(house: House) -> None:
    house.start()
    house.tick(3)
    house.answers(2000, wrong=lambda version: version == "2")
    house.tick(2)
    told = [(entry.who, entry.what, entry.version) for entry in reversed(house.state.journal("net"))]
    assert told == [("ann", "rollout canary", "2"), ("server", "rollout step", "2"), ("server", ROLLED_BACK, "2")]


def test_a_worker_that_does_not_follow_is_named(house: House) -> None:
    with house.state.change("ann") as change:
        change.note("nothing")
    with pytest.raises(StateError, match=r"worker 1 \(process \d+\), 2 \(process \d+\) did not follow within 0.1 s"):
        house.registered.wait_until_applied(change.revision, 0.1)


@pytest.mark.parametrize(
    ("strategy", "given", "message"),
    [
        ("canery", {}, "did you mean 'canary'"),
        ("canary", {"shares": [0.5, 0.2, 1.0]}, "steps must grow and end with 100, .* found 50,20,100"),
        ("canary", {"shares": [0.5]}, "steps must grow and end with 100"),
        ("canary", {"every_s": -1.0}, "every must be from 0"),
        ("shadow", {"shares": [1.0]}, "steps are for canary and rolling"),
        ("shadow", {"shadow": 0.0}, "lives from the requests that are copied"),
        ("canary", {"limits": Limits(measure="clas")}, "did you mean 'class'"),
        ("canary", {"limits": Limits(errors=float("nan"))}, "errors must be from 0 to 1, found nan"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(strategy: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(strategy, **given)  # type: ignore[arg-type]
