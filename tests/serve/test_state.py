"""The file that a server's state lies in, and what is written there: whole changes, in order, by whom and why."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tightship.errors import StateError
from tightship.serve.database import Database
from tightship.serve.failures import NoSuchModel
from tightship.serve.packages import Stored
from tightship.serve.routing import Routes
from tightship.serve.schema import SCHEMA_VERSION
from tightship.serve.state import ADMIN, State
from tightship.serve.workers import Workers


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    database = Database(tmp_path / "state.sqlite")
    yield State(database)
    database.close()


def stored(version: str, digest: str = "") -> Stored:
    return Stored((digest or version).ljust(64, "0"), Path(f"/packages/{version}.ship"), "net", version, "net.ship")


def add(state: State, version: str = "1", digest: str = "") -> str:
    with state.change("ann") as change:
        name = change.adopt("net", stored(version, digest))
        if "net" not in change.desired().models:
            change.add_model("net", name, ADMIN)
    return name


def test_what_was_changed_is_there_for_others(state: State) -> None:
    add(state)
    with state.change("ann") as change:
        change.adopt("net", stored("2"))
        change.route("net", Routes("1", "2", 0.25, 0.5, by_key=True), by_worker=True)
    other = Database(state.database.path)
    model = State(other).desired().find("net")
    other.close()
    assert model.routes == Routes("1", "2", 0.25, 0.5, by_key=True)
    assert model.by_worker
    assert [version.version for version in model.versions if version.wanted] == ["1", "2"]


def test_a_change_that_fails_changes_nothing(state: State) -> None:
    add(state)
    before = state.desired()
    with pytest.raises(ZeroDivisionError), state.change("ann") as change:
        change.unload("net")
        change.note("unload", "net")
        1 / 0  # noqa: B018
    assert state.desired() == before
    assert state.journal() == ()


def test_routes_to_a_version_that_is_not_there_are_refused_by_the_database(state: State) -> None:
    add(state)
    with pytest.raises(StateError, match="FOREIGN KEY"), state.change("ann") as change:
        change.route("net", Routes("1", "7", 0.5))
    assert state.desired().models["net"].routes == Routes("1")


def test_every_change_makes_the_revision_grow_by_one(state: State) -> None:
    assert state.revision() == 0
    add(state)
    add(state, "2")
    assert state.revision() == 2


@pytest.mark.parametrize(("given", "named"), [("1", "2"), ("9", "10"), ("v1", "v1-b00000000000")])
def test_other_bytes_with_a_version_that_is_taken_get_another(state: State, given: str, named: str) -> None:
    assert add(state, given, "a") == given
    assert add(state, given, "b") == named


def test_the_same_bytes_keep_the_version_that_they_have(state: State) -> None:
    add(state, "1", "a")
    assert add(state, "1", "b") == "2"
    assert add(state, "7", "b") == "2"


def test_a_version_that_is_wanted_again_is_to_be_tried_again(state: State) -> None:
    add(state)
    first = state.desired().models["net"].versions[0].wanted_since
    with state.change("ann") as change:
        change.want("net", "1", False)
    assert not state.desired().models["net"].served
    add(state)
    assert state.desired().models["net"].versions[0].wanted_since > first


def test_an_unknown_model_is_told_with_the_nearest(state: State) -> None:
    add(state)
    with pytest.raises(NoSuchModel, match=r"there is no model 'nett' \(did you mean 'net'\?\); known here: net"):
        state.desired().find("nett")


def test_the_journal_is_told_newest_first_and_by_model(state: State) -> None:
    for model in ("a", "b", "a"):
        with state.change("ann") as change:
            change.note("load", model, "1", "because")
    assert [entry.id for entry in state.journal("a")] == [3, 1]
    assert [entry.id for entry in state.journal(limit=1)] == [3]


def test_the_data_version_changes_with_every_commit_and_only_then(state: State) -> None:
    before = state.database.data_version()
    assert state.database.data_version() == before
    add(state)
    own = state.database.data_version()
    other = Database(state.database.path)
    add(State(other), "2")
    other.close()
    assert len({before, own, state.database.data_version()}) == 3


def test_writers_of_several_processes_and_threads_wait_for_each_other(state: State) -> None:
    def write() -> None:
        for _ in range(10):
            with state.change("thread") as change:
                change.note("write")

    code = (
        "import sys; from pathlib import Path; from tightship.serve.database import Database\n"
        "from tightship.serve.state import State\n"
        "state = State(Database(Path(sys.argv[1])))\n"
        "for _ in range(10):\n"
        "    with state.change('process') as change: change.note('write')\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(state.database.path)]) for _ in range(2)]
    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0]
    assert state.revision() == len(state.journal(limit=1000)) == 40


def test_the_file_is_readable_by_its_owner_alone(state: State) -> None:
    add(state)
    for path in state.database.path.parent.glob("state.sqlite*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_file_that_is_none_of_ours_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"cannot be used as a server's state|nothing was changed"):
        Database(path)
    assert path.read_bytes() == content


def test_the_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    Database(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StateError, match=f"has the schema {SCHEMA_VERSION + 1}, this tightship reads {SCHEMA_VERSION}"):
        Database(path)


def test_workers_are_those_whose_process_lives(state: State) -> None:
    workers = Workers(state.database)
    number = workers.register()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = psutil.Process(process.pid).create_time()
    with state.database.transaction() as connection:
        connection.execute("INSERT INTO workers (pid, born) VALUES (?, ?)", (process.pid, born))
        connection.execute("INSERT INTO workers (pid, born) VALUES (?, ?)", (os.getpid(), 1.0))  # of an earlier process
    assert [report.pid for report in workers.living()] == [os.getpid(), process.pid]
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert [report.pid for report in workers.living()] == [os.getpid()]  # a zombie does not serve
    process.wait()
    workers.report(number, 3, {("net", "1"): "", ("net", "2"): "damaged"})
    assert workers.living()[0].loaded == {("net", "1"): "", ("net", "2"): "damaged"}
    workers.leave(number)
    assert workers.living() == ()
