"""Versions whose engine takes the worker's process along: taken back by themselves, with the reason, and no loop."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.serve import candidates
from tests.serve.live import LiveServer, serving
from tests.serve.load import Load
from tightship.errors import TightshipError
from tightship.serve.rollout.client import Server
from tightship.serve.rollout.status import Order, Status

HALF = Order("", steps=(50.0, 100.0), every_s=60.0, min_requests=20, shadow=0.0)


@dataclass
class Live:
    """A server of two workers, and a client that survives their deaths."""

    http: LiveServer
    server: Server
    folder: Path

    def start(self, model: str, kind: str) -> Status:
        import msgspec

        path = candidates.write(self.folder, kind)
        return self.server.start(msgspec.structs.replace(HALF, model=model, path=str(path)))

    def status(self, model: str) -> Status:
        """How the last rollout stands; asked again where the worker that was to answer dies."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with suppress(TightshipError, OSError):
                return self.server.list(model, limit=1)[0]
            time.sleep(0.1)
        raise AssertionError("nobody answers")

    def until(self, model: str, *states: str) -> Status:
        until = time.monotonic() + 40
        while (found := self.status(model)).rollout.state not in states:
            assert time.monotonic() < until, found
            time.sleep(0.05)
        return found

    def workers(self) -> list[int]:
        found = []
        for child in psutil.Process(self.http.process.pid).children():
            with suppress(psutil.Error):  # one that has just died
                if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in str(child.cmdline()):
                    found.append(child.pid)
        return found

    def until_workers(self, n: int) -> None:
        """Wait until so many workers answer and report."""
        until = time.monotonic() + 40
        while time.monotonic() < until:
            with suppress(OSError):
                if json.loads(self.http.get("/console/overview")[1])["server"]["workers"] == n == len(self.workers()):
                    return
            time.sleep(0.1)
        raise AssertionError(self.http.log.read_text()[-2000:])

    def answers_without_failure(self, model: str) -> None:
        """Check that nothing fails any more, and that version 1 answers."""
        load = Load.start(self.http.http_port, model, candidates.BODY, self.folder)
        time.sleep(1.0)
        found = load.stop()
        assert found["failed"] == []
        assert found["answered"].keys() == {"1"}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("crashes")
    good = candidates.write(folder, "good").read_bytes()
    paths = [folder / f"{name}.onnx" for name in ("warmed", "asked", "killed")]
    for path in paths:
        path.write_bytes(good)
    with serving(folder, paths, "--workers", "2", "--no-grpc") as server:
        yield Live(server, Server(server.url, server.admin_key, timeout_s=10), folder)


def test_a_version_that_crashes_while_it_is_loaded_is_taken_back_and_no_request_fails(live: Live) -> None:
    workers = live.workers()
    load = Load.start(live.http.http_port, "asked", candidates.BODY, live.folder)
    live.start("warmed", "crashing")
    ended = live.until("warmed", "rolled back")
    assert ended.reason == "version 2 could not be loaded: the process that tried it first was killed by SIGFPE"
    assert load.stop()["failed"] == []
    assert live.workers() == workers
    assert [entry.what for entry in live.server.journal("warmed")] == ["rolled back", "rollout canary", "start"]


def test_a_model_that_crashes_while_it_is_loaded_is_refused(live: Live) -> None:
    path = candidates.write(live.folder, "crashing").rename(live.folder / "bad.onnx")
    body = json.dumps({"parameters": {"path": str(path)}}).encode()
    key = {"Authorization": f"Bearer {live.http.admin_key}"}
    status, answer = live.http.get("/v2/repository/models/bad/load", body, key)
    assert status == 400 and b"the process that tried it first was killed by SIGFPE" in answer


def test_a_version_that_crashes_on_some_requests_is_taken_back_as_soon_as_it_has_twice(live: Live) -> None:
    live.start("asked", "fragile")
    live.until("asked", "running")
    time.sleep(0.5)  # both workers follow
    load = Load.start(live.http.http_port, "asked", candidates.BODY, live.folder)
    ended = live.until("asked", "rolled back")
    load.stop()
    assert ended.reason == "2 worker processes died while version 2 was in use"
    live.until_workers(2)
    live.answers_without_failure("asked")


def test_workers_that_are_killed_while_a_version_is_tried_count_against_it_once_each(live: Live) -> None:
    live.start("killed", "better")
    live.until("killed", "running")
    time.sleep(0.5)
    os.kill(live.workers()[0], signal.SIGKILL)
    live.until_workers(2)
    assert live.status("killed").rollout.state == "running"
    assert live.status("killed").rollout.deaths == 1
    until = time.monotonic() + 20
    while "2" not in {json.loads(live.http.get("/v2/models/killed/infer", candidates.BODY)[1])["model_version"]}:
        assert time.monotonic() < until
    os.kill(live.workers()[1], signal.SIGKILL)
    ended = live.until("killed", "rolled back")
    assert ended.reason == "2 worker processes died while version 2 was in use"
    live.until_workers(2)
    live.answers_without_failure("killed")


def test_a_server_whose_model_crashes_when_it_is_loaded_does_not_start_and_says_which(tmp_path: Path) -> None:
    path = candidates.write(tmp_path, "crashing")
    told = "was killed by SIGFPE before it could serve, while it loaded version 1 of"
    with pytest.raises(AssertionError, match=told), serving(tmp_path, [path], "--workers", "2", "--no-grpc"):
        pass
