"""Rollouts on a server that runs, with two workers, under load from another process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.serve import candidates
from tests.serve.live import LiveServer, serving
from tests.serve.load import Load
from tightship.cli import main
from tightship.errors import RolloutError
from tightship.serve.database import Database
from tightship.serve.rollout.client import Server
from tightship.serve.rollout.status import Order, Status
from tightship.serve.state import State
from tightship.serve.workers import Workers

QUICK = Order("", steps=(50.0, 100.0), every_s=0.3, min_requests=20, shadow=0.2)


@dataclass
class Live:
    """A running server of several models that are all the same, a client, and other versions."""

    http: LiveServer
    server: Server
    folder: Path

    def start(self, model: str, kind: str, order: Order = QUICK) -> Status:
        path = candidates.write(self.folder, kind)
        return self.server.start(replace_order(order, model=model, path=str(path)))

    def until_it_runs(self, model: str) -> None:
        """Wait until the new version is tried, and every worker knows."""
        while self.server.list(model, limit=1)[0].rollout.state == "preparing":
            time.sleep(0.05)
        database = Database(self.http.state / "state.sqlite")
        Workers(database).wait_until_applied(State(database).revision())
        database.close()

    def load(self, model: str) -> Load:
        return Load.start(self.http.http_port, model, candidates.BODY, self.folder)

    def version(self, model: str, headers: dict[str, str] | None = None) -> str:
        status, body = self.http.get(f"/v2/models/{model}/infer", candidates.BODY, headers)
        assert status == 200, body
        return str(json.loads(body)["model_version"])


def replace_order(order: Order, **fields: Any) -> Order:
    import msgspec

    return msgspec.structs.replace(order, **fields)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("rollouts")
    good = candidates.write(folder, "good")
    names = ("quick", "wrong", "broken", "lame", "sticky", "asked", "spoken", "often")
    paths = [good.rename(folder / "quick.onnx"), *(folder / f"{name}.onnx" for name in names[1:])]
    for path in paths[1:]:
        path.write_bytes(paths[0].read_bytes())
    with serving(folder, paths, "--workers", "2") as server:
        yield Live(server, Server(server.url, server.admin_key), folder)


def test_no_request_fails_while_versions_are_promoted_and_taken_back(live: Live) -> None:
    load = live.load("quick")
    promoted = live.server.wait(live.start("quick", "better"), 0.05)
    assert promoted.rollout.state == "promoted", promoted
    back = live.server.rollback("quick", "a rehearsal")
    assert (back.rollout.new, back.rollout.state) == ("1", "promoted")
    live.start("quick", "better", replace_order(QUICK, every_s=60.0))
    live.until_it_runs("quick")
    live.server.abort("quick", "enough")
    found = load.stop()
    assert found["failed"] == []
    assert found["answered"]["1"] > 100
    assert found["answered"]["2"] > 100
    assert live.version("quick") == "1"


@pytest.mark.slow
def test_no_request_fails_in_many_promotions_and_rollbacks(live: Live) -> None:
    """Versions come and go, are unloaded at once, and are loaded again, while others ask without a pause."""
    load = live.load("often")
    order = replace_order(QUICK, steps=(100.0,), every_s=0.0, keep_old_s=0.0, shadow=0.5)
    for _ in range(20):
        assert live.server.wait(live.start("often", "better", order), 0.05).rollout.state == "promoted"
        assert live.server.rollback("often").rollout.state == "promoted"
    found = load.stop()
    assert found["failed"] == []
    assert min(found["answered"].values()) > 1000


def test_a_version_that_answers_otherwise_is_taken_back_within_seconds(live: Live) -> None:
    load = live.load("wrong")
    ended = live.server.wait(live.start("wrong", "other", replace_order(QUICK, every_s=60.0)), 0.05)
    assert ended.rollout.state == "rolled back"
    assert ended.reason.startswith("disagreement: 100.00% over ")
    assert ended.rollout.ended_at is not None
    assert ended.rollout.ended_at - ended.rollout.step_at < 10  # about 1.2 s on an idle machine
    assert load.stop()["failed"] == []


def test_a_version_that_fails_is_taken_back_within_seconds(live: Live) -> None:
    load = live.load("broken")
    ended = live.server.wait(live.start("broken", "failing", replace_order(QUICK, every_s=60.0)), 0.05)
    assert ended.rollout.state == "rolled back"
    assert ended.reason.startswith("errors: 100.00% of ")
    assert ended.rollout.ended_at is not None
    assert ended.rollout.ended_at - ended.rollout.step_at < 10
    found = load.stop()
    assert found["answered"].keys() == {"1"}
    assert all("500" in failure for failure in found["failed"])


def test_a_version_that_is_slow_is_taken_back(live: Live) -> None:
    load = live.load("lame")
    ended = live.server.wait(live.start("lame", "slow", replace_order(QUICK, every_s=60.0)), 0.05)
    assert ended.rollout.state == "rolled back"
    assert ended.reason.startswith("latency: the 95th percentile of version 2 is ")
    assert load.stop()["failed"] == []


def test_callers_with_a_key_stay_with_their_version_on_every_worker(live: Live) -> None:
    live.start("sticky", "better", replace_order(QUICK, steps=(50.0, 100.0), every_s=60.0))
    live.until_it_runs("sticky")
    seen = {key: {live.version("sticky", {"X-Sticky-Key": key}) for _ in range(6)} for key in map(str, range(12))}
    live.server.abort("sticky")
    assert all(len(versions) == 1 for versions in seen.values())
    assert {"1", "2"} == {version for versions in seen.values() for version in versions}


def test_a_package_can_be_sent(live: Live, tmp_path: Path) -> None:
    from tightship.api.packing import pack

    path = candidates.write(tmp_path, "better")
    pack([path], tmp_path / "asked.ship", name="asked", version="2.1")
    sent = live.server.start(replace_order(QUICK, model="asked", path="asked.ship"), tmp_path / "asked.ship")
    (tmp_path / "asked.ship").unlink()
    assert sent.rollout.new == "2.1"
    live.server.abort("asked")


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"model": "nothing"}, r"\(404\): there is no model 'nothing'"),
        ({"strategy": "canery"}, r"\(400\): there is no strategy 'canery' \(did you mean 'canary'"),
        ({"path": "/nowhere/x.onnx"}, r"\(404|400\): /nowhere/x.onnx: no such file on the server's machine"),
        ({"path": ""}, r"\(400\): name the package"),
        ({"path": "{good}"}, r"\(409\): these bytes are version 1 of asked, which answers already"),
    ],
)
def test_what_the_server_refuses_is_told(live: Live, order: dict[str, str], words: str) -> None:
    path = candidates.write(live.folder, "better")
    good = str(live.folder / "asked.onnx")
    fields = {"model": "asked", "path": str(path)} | {name: value.format(good=good) for name, value in order.items()}
    with pytest.raises(RolloutError, match=words):
        live.server.start(replace_order(QUICK, **fields))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/admin/rollouts", b"{", 400),
        ("/admin/rollouts", b'{"model": "asked", "path": "x", "unknown": 1}', 400),
        ("/admin/rollouts", b"[" * 60_000, 400),
        ("/admin/rollouts", b" " * 70_000, 413),
        ("/admin/rollouts/asked/dance", b"", 404),
        ("/admin/rollouts/asked/abort", b"", 409),
        ("/admin/rollouts?limit=x", None, 400),
        ("/admin/rollouts/999", None, 404),
        ("/admin/rollouts/99999999999999999999999", None, 404),
        ("/admin/journal?limit=0", None, 400),
    ],
)
def test_requests_that_make_no_sense_get_an_error_and_change_nothing(
    live: Live, path: str, body: bytes | None, status: int
) -> None:
    headers = {"Authorization": f"Bearer {live.server.key}", "Content-Type": "application/json"}
    found, answer = live.http.get(path, body, headers)
    assert found == status
    assert set(json.loads(answer)) == {"error"}


def test_nothing_of_it_is_told_without_an_administrators_key(live: Live) -> None:
    for path, body in (("/admin/rollouts", None), ("/admin/journal", None), ("/admin/rollouts/asked/abort", b"")):
        assert live.http.get(path, body)[0] == 401


def test_the_commands_tell_what_happens(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--server", live.http.url, "--state", str(live.http.state)]

    def run(*words: str) -> tuple[int, str]:
        code = main(["rollout", *words, *where])
        told = capsys.readouterr()
        return code, " ".join((told.out + told.err).split())

    path = str(candidates.write(live.folder, "better"))
    code, told = run("start", "spoken", path, "--steps", "10,100", "--every", "1h", "--why", "cheaper")
    assert (code, told.startswith("spoken: version 1 -> 2, canary, preparing")) == (0, True)
    code, told = run("start", "spoken", path)
    assert (code, "(409): rollout" in told) == (15, True)
    live.until_it_runs("spoken")
    assert "step 1 of 2: 0.1 of requests go to 2" in run("status", "spoken")[1]
    assert json.loads(run("status", "--json", "--running")[1])[0]["rollout"]["model"] == "spoken"
    assert "spoken: version 1 -> 2, canary, promoted good" in run("promote", "spoken", "--why", "good")[1]
    assert "spoken: version 2 -> 1, rollback, promoted" in run("rollback", "spoken")[1]
    story = [entry["what"] for entry in json.loads(run("history", "spoken", "--json")[1])]
    assert story == ["promoted", "rollout rollback", "promoted", "rollout step", "rollout canary", "start"]
    code, told = run("start", "spoken", str(live.folder / "failing.onnx"), "--strategy", "shadow", "--shadow", "0")
    assert (code, "lives from the requests that are copied" in told) == (2, True)


def test_without_a_key_or_a_server_it_is_told_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", "status", "--state", str(tmp_path)]) == 2
    assert "--api-key-file" in capsys.readouterr().err
    (tmp_path / "admin.key").write_text("ts_x_y\n")
    assert main(["rollout", "status", "--state", str(tmp_path), "--server", "http://127.0.0.1:9"]) == 15
    assert "does not answer" in capsys.readouterr().err
