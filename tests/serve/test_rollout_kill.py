"""Killed at any moment, what is wanted is the step before or the step after, and it can be read and served."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.serve import candidates
from tests.serve.live import LiveServer, serving
from tests.serve.rollouts import House
from tightship.errors import TightshipError
from tightship.serve.database import Database
from tightship.serve.rollout.client import Server
from tightship.serve.rollout.records import PROMOTED, Records
from tightship.serve.rollout.status import Order
from tightship.serve.rollout.strategies import Limits, make_plan
from tightship.serve.state import State


def be_busy(folder: Path, seed: int, ready: int) -> None:
    """Change what is wanted without a pause, with two workers that follow; until killed."""
    house = House(folder, n_workers=2)
    if not house.state.desired().models:
        house.serve("1")
    house.tick()
    threading.Thread(target=lambda: [house.tick() for _ in iter(int, 1)], daemon=True).start()
    os.write(ready, b".")
    draw = random.Random(seed)
    plan = make_plan("canary", [0.5, 1.0], 0.0, shadow=0.0, limits=Limits(min_requests=0), keep_old_s=0.01)
    while True:
        with suppress(TightshipError):
            time.sleep(draw.uniform(0.0, 0.05))
            act = draw.choice(["start"] * 6 + ["promote"] * 2 + ["abort", "rollback"])
            if act == "start":
                house.start(str(draw.randint(2, 4)), plan)
            else:
                getattr(house.rollouts, act)("net", "ann")


def forked(folder: Path, seed: int) -> int:
    """Start a process that is busy, and return its number once it is."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            be_busy(folder, seed, write)
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 1) == b"."
    os.close(read)
    return process


def check(path: Path) -> str:
    """Check that a state is whole and no mixture; return the version that answers."""
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    database = Database(path)
    with database.reading() as reading:
        records = Records(reading)
        running, ended = records.running(), [one for one in records.history(limit=10_000) if one.ended]
    model = State(database).desired().find("net")
    database.close()
    assert model.served
    assert len(running) <= 1
    expected = "1"
    for rollout in reversed(ended):
        assert rollout.old == expected, "a rollout begins where the one before has ended"
        expected = rollout.new if rollout.state == PROMOTED else rollout.old
    assert model.routes.stable == expected
    tried = running[0] if running and running[0].state == "running" else None
    assert model.routes.candidate == (None if tried is None else tried.new)
    for rollout in running:
        candidate = model.find(rollout.new)
        assert rollout.old == expected
        assert candidate is not None
        assert candidate.wanted
    return expected


def test_a_state_whose_writer_is_killed_is_the_one_before_or_after_a_step(tmp_path: Path) -> None:
    draw, seen = random.Random(1), set()
    for round_ in range(20):
        process = forked(tmp_path, round_)
        time.sleep(draw.uniform(0.0, 0.4))
        os.kill(process, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
        seen.add(check(tmp_path / "state.sqlite"))
    database = Database(tmp_path / "state.sqlite")
    assert State(database).revision() > 60  # it was killed amid work
    database.close()
    assert len(seen) > 1


def act(server: Server, folder: Path, stop: threading.Event, draw: random.Random) -> None:
    """Start, promote, abort and roll back without a pause, whatever the server says to it."""
    order = Order("net", steps=(50.0, 100.0), every_s=0.1, min_requests=0, shadow=0.0)
    kinds = ("better", "good", "other")
    while not stop.is_set():
        with suppress(TightshipError):
            verb = draw.choice(["start", "promote", "abort", "rollback"])
            if verb == "start":
                server.start(msgspec.structs.replace(order, path=str(folder / f"{draw.choice(kinds)}.onnx")))
            else:
                getattr(server, verb)("net")
        time.sleep(0.02)


def kill_a_worker(server: LiveServer, draw: random.Random) -> None:
    children = [
        child for child in psutil.Process(server.process.pid).children() if "spawn_main" in str(child.cmdline())
    ]
    with suppress(psutil.NoSuchProcess):
        draw.choice(children).kill()


def kill_everything(server: LiveServer, draw: random.Random) -> None:
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    server.process.kill()
    server.process.wait()


def kill_the_server(folder: Path, rounds: int, seed: int) -> None:
    """Kill workers, supervisors or all, amid changes; each time the state is whole, and a new start serves it."""
    draw = random.Random(seed)
    for kind in ("better", "good", "other"):
        candidates.write(folder, kind)
    net = candidates.write(folder, "good").rename(folder / "net.onnx")
    candidates.write(folder, "good")
    for round_ in range(rounds):
        with serving(folder, [net], "--workers", "2", "--no-grpc") as server:
            stop = threading.Event()
            thread = threading.Thread(
                target=act,
                args=(Server(server.url, server.admin_key, timeout_s=20), folder, stop, random.Random(round_)),
            )
            thread.start()
            time.sleep(draw.uniform(0.2, 1.0))
            if round_ % 2 == 0:
                kill_a_worker(server, draw)
                time.sleep(draw.uniform(0.0, 1.0))
            check(server.state / "state.sqlite")
            kill_everything(server, draw)
            stop.set()
            thread.join()
        stable = check(folder / "state" / "state.sqlite")
    with serving(folder, [net], "--workers", "2", "--no-grpc") as server:
        status, body = server.get("/v2/models/net/versions/" + stable + "/infer", candidates.BODY)
        assert (status, json.loads(body)["model_version"]) == (200, stable)


def test_a_server_that_is_killed_amid_rollouts_comes_back_with_what_it_had(tmp_path: Path) -> None:
    kill_the_server(tmp_path, rounds=1, seed=0)


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_amid_rollouts_comes_back_each_time(tmp_path: Path) -> None:
    kill_the_server(tmp_path, rounds=20, seed=1)
