"""Dead workers: what they are held against, who tries what is new, and how long that rests which killed too many."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serve.rollouts import House
from tightship.serve import supervisor
from tightship.serve.database import Database
from tightship.serve.deaths import Crashing, told
from tightship.serve.rollout.records import ROLLED_BACK
from tightship.serve.rollout.strategies import make_plan
from tightship.serve.schema import SCHEMA_VERSION
from tightship.serve.state import ADMIN
from tightship.serve.workers import Workers

NEW = ("net", "2")
SLOWLY = make_plan("canary", [0.5, 1.0], every_s=600.0)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, n_workers=2)
    made.serve("1")
    yield made
    made.close()


def kill(house: House, *workers: int) -> None:
    """Have other processes registered in their place, which have ended since."""
    with house.database.transaction() as connection:
        connection.executemany("UPDATE workers SET born = 1 WHERE id = ?", [(worker,) for worker in workers])


def want(house: House) -> None:
    """Want version 2 without a rollout."""
    with house.state.change("ann") as change:
        change.adopt("net", house.stored("2"))


def rested(house: House, seconds: float) -> None:
    """Let that much time have passed since the last death."""
    with house.database.transaction() as connection:
        connection.execute("UPDATE versions SET died_at = died_at - ?", (seconds,))


def test_a_worker_that_dies_while_it_loads_a_candidate_is_held_against_that_alone(house: House) -> None:
    with house.state.change("ann") as change:
        change.adopt("other", house.stored("7", "other"))
        change.add_model("other", "7", ADMIN)
    house.tick()
    other = house.rollouts.start("other", house.stored("8", "other"), SLOWLY, "ann")
    house.tick(4)
    rollout = house.start("2", SLOWLY)
    first, second = (worker.reconciler.worker for worker in house.workers)
    assert house.registered.begin_loading(first, NEW, in_turn=True)
    kill(house, first)
    house.registered.bury()
    assert (house.find(rollout).deaths, house.find(rollout).deaths_loading) == (1, 1)
    assert house.find(other).deaths == 0
    kill(house, second)  # it loads nothing, and has only the other model's candidate
    house.registered.bury()
    assert house.find(rollout).deaths == 1
    assert (house.find(other).deaths, house.find(other).deaths_loading) == (1, 0)
    told = [(entry.what, entry.model, entry.why) for entry in house.state.journal(limit=2)]
    assert told == [
        ("worker died", "other", "1 worker process died while version 8 was in use"),
        ("worker died", "net", "1 worker process died while version 2 was loaded and warmed up"),
    ]


def test_workers_that_die_while_they_load_it_end_a_rollout_before_any_request_goes_there(house: House) -> None:
    rollout = house.start("2", SLOWLY)
    for number in (0, 1):
        dying = house.workers[number].reconciler.worker
        assert house.registered.begin_loading(dying, NEW, in_turn=False)
        kill(house, dying)
        house.registered.bury()
    house.workers = [house.worker()]
    house.tick(2)
    found = house.find(rollout)
    assert (found.state, found.reason) == (ROLLED_BACK, told("2", 2, 2))
    assert "load 2" not in house.workers[0].catalogue.log


def test_no_worker_is_risked_for_a_version_that_crashes_in_another_process(house: House) -> None:
    for worker in house.workers:
        worker.catalogue.crashing = {"2": "the process that tried it first was killed by SIGFPE"}
    rollout = house.start("2", SLOWLY)
    house.tick(3)
    found = house.find(rollout)
    assert (found.state, found.deaths) == (ROLLED_BACK, 0)
    assert found.reason == "version 2 could not be loaded: the process that tried it first was killed by SIGFPE"
    assert all("load 2" not in worker.catalogue.log for worker in house.workers)


def test_only_what_no_worker_has_loaded_is_tried_in_another_process(house: House) -> None:
    house.start("2", SLOWLY)
    house.tick(3)
    with house.following():
        house.rollouts.abort("net", "ann")
    house.start("2", SLOWLY)
    house.tick(3)
    tried = [worker.catalogue.log.count("try 2") for worker in house.workers]
    loaded = [worker.catalogue.log.count("load 2") for worker in house.workers]
    assert (tried, loaded) == ([1, 0], [2, 2])


def test_a_server_that_is_killed_as_a_whole_is_one_death(house: House) -> None:
    rollout = house.start("2", SLOWLY)
    house.tick(3)
    kill(house, *(worker.reconciler.worker for worker in house.workers))
    house.registered.clear()
    assert house.find(rollout).deaths == 1
    house.registered.clear()
    assert house.find(rollout).deaths == 1


def test_what_is_new_is_tried_by_one_worker_after_the_other(house: House) -> None:
    want(house)
    first, second = (worker.reconciler.worker for worker in house.workers)
    begin = house.registered.begin_loading
    assert begin(first, NEW, in_turn=True)
    assert not begin(second, NEW, in_turn=True)
    assert begin(second, NEW, in_turn=False)  # a start, when nobody answers yet
    house.registered.end_loading(second, NEW)
    kill(house, first)
    assert not begin(second, NEW, in_turn=True), "the next one tries when the first is back"
    rested(house, 3.0)
    assert begin(second, NEW, in_turn=True)


def test_what_a_worker_has_loaded_the_others_load_without_waiting(house: House) -> None:
    want(house)
    first, second = (worker.reconciler.worker for worker in house.workers)
    house.registered.report(first, 1, {NEW: ""})
    assert house.registered.begin_loading(first, NEW, in_turn=True)
    assert house.registered.begin_loading(second, NEW, in_turn=True)


def test_a_version_that_killed_two_workers_rests_longer_each_time_and_is_then_tried_again(house: House) -> None:
    want(house)
    living = house.workers[1].reconciler.worker
    waited = []
    for deaths in range(1, 6):
        dying = house.registered.register()
        rested(house, 1e5)
        assert house.registered.begin_loading(dying, NEW, in_turn=True)
        kill(house, dying)
        if deaths > 1:
            with pytest.raises(
                Crashing, match=rf"{deaths} worker processes died .*; it is tried again after"
            ) as resting:
                house.registered.begin_loading(living, NEW, in_turn=False)
            waited.append(round(resting.value.until - time.time(), -1))
    assert waited == [60, 120, 240, 480]
    with house.state.change("ann") as change:
        change.forgive(*NEW)  # an administrator asks for it again
    assert house.registered.begin_loading(living, NEW, in_turn=True)


def test_a_version_that_rests_is_a_problem_that_is_told_and_tried_again_when_it_has_rested(house: House) -> None:
    with house.database.transaction() as connection:
        connection.execute(
            "INSERT INTO versions (model, version, digest, path, source, wanted, added_at, deaths, died_at) "
            "VALUES ('net', '2', 'd', 'p', 's', 1, 0, 2, ?)",
            (time.time(),),
        )
        connection.execute("UPDATE server SET revision = revision + 1")
    house.tick(2)
    assert all(NEW not in worker.catalogue.loaded for worker in house.workers)
    assert all("tried again" in report.loaded[NEW] for report in house.registered.living())
    rested(house, 60.0)
    for worker in house.workers:
        worker.reconciler._problems[NEW] = worker.reconciler._problems[NEW].__class__(1, "", time.time())
    house.tick(2)
    assert all(NEW in worker.catalogue.loaded for worker in house.workers)
    assert {report.loaded[NEW] for report in house.registered.living()} == {""}
    with house.database.reading() as connection:
        assert connection.execute("SELECT deaths FROM versions WHERE version = '2'").fetchone() == (0,)


@pytest.mark.parametrize(
    ("deaths", "loading", "words"),
    [
        (1, 1, "1 worker process died while version 2 was loaded and warmed up"),
        (2, 0, "2 worker processes died while version 2 was in use"),
        (3, 1, "3 worker processes died: 1 while version 2 was loaded and warmed up, 2 while it was in use"),
    ],
)
def test_the_reason_says_when_they_died(deaths: int, loading: int, words: str) -> None:
    assert told("2", deaths, loading) == words


def test_a_state_of_the_schema_before_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    Database(path).close()
    connection = sqlite3.connect(path)
    for table, column in (
        ("versions", "deaths"), ("versions", "died_at"), ("rollouts", "deaths_loading"), ("workers", "trying_model"),
        ("workers", "trying_version"),
    ):  # fmt: skip
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    connection.execute("INSERT INTO workers (pid, born) VALUES (1, 1)")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    database = Database(path)
    Workers(database).register()
    assert len(Workers(database).living()) == 1
    with database.reading() as reading:
        assert reading.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    database.close()


def test_a_worker_that_dies_again_and_again_is_started_anew_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    dead = SimpleNamespace(is_alive=lambda: False, exitcode=-11, pid=1, sentinel=0)
    over: Any = supervisor._Supervisor.__new__(supervisor._Supervisor)
    over._ending = False
    over._start = lambda strict: supervisor._Child(dead, SimpleNamespace(close=lambda: None), clock[0])  # type: ignore[arg-type]

    def rest(child: supervisor._Child) -> tuple[float, supervisor._Child]:
        died = clock[0]
        while (kept := over._kept(child)) is child:
            clock[0] += 0.25
        return clock[0] - died, kept

    child, rests = over._start(True), []
    for _ in range(9):
        rested, child = rest(child)
        rests.append(rested)
    assert rests == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    clock[0] += supervisor.LEAST_LIFE_S
    assert rest(child)[0] == 0.0  # it has lived long enough
