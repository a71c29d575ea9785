"""`tightship serve` as a user runs it: starting, ending, dying, and changing what it serves while it answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests import nets
from tests.serve.live import LiveServer, free_port, serving
from tightship.api import packing
from tightship.cli import main

for module in ("uvicorn", "uvloop", "httptools", "starlette"):
    pytest.importorskip(module)

ROW = [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]
N_STEPS = 500_000
SLOW = [{"name": "n", "shape": [], "datatype": "INT64", "data": [N_STEPS]}]


def counting() -> onnx.ModelProto:
    """A model that counts up to its input: about as slow as one likes."""
    return onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        net (int64 n) => (float[1] y) <bool go = {1}, float[1] one = {1}, float[1] zero = {0}> {
            y = Loop (n, go, zero) <body = step (int64 i, bool on, float[1] a) => (bool still, float[1] b) {
                still = Identity (on)
                b = Add (a, one)
            }>
        }"""
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("live")
    models = [nets.save(nets.mlp(4), folder, "net.onnx"), nets.save(nets.mlp(4, seed=1), folder, "other.onnx")]
    with serving(folder, models, "--workers", "2", "--max-body", "1") as running:
        yield running


def admin(server: LiveServer) -> dict[str, str]:
    return {"authorization": f"Bearer {server.admin_key}"}


def index(server: LiveServer) -> dict[str, str]:
    status, body = server.get("/v2/repository/index", b"{}")
    assert status == 200
    return {f"{row['name']} {row['version']}": row["state"] for row in json.loads(body)}


def post(server: LiveServer, path: str, body: bytes = b"{}", kind: str = "application/json") -> tuple[int, Any]:
    status, answer = server.get(path, body, {**admin(server), "content-type": kind})
    return status, json.loads(answer)


def test_all_models_of_the_command_answer(server: LiveServer) -> None:
    first, second = (server.infer(name, ROW)[1]["outputs"][0]["data"] for name in ("net", "other"))
    assert len(first) == 8 and first != second
    assert json.loads(server.get("/v2/models")[1])["models"] == ["net", "other"]


def test_the_start_says_where_everything_is(server: LiveServer) -> None:
    until = time.monotonic() + 20  # it answers before the supervisor, another process, says so
    while "admin.key" not in (told := server.log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    for word in (f"{server.url}/v2", f"127.0.0.1:{server.grpc_port}", "net, other", "admin.key", "Ctrl-C ends it"):
        assert word in told
    assert (server.state / "admin.key").stat().st_mode & 0o777 == 0o600


def test_a_model_is_unloaded_and_loaded_again_in_all_workers(server: LiveServer) -> None:
    assert post(server, "/v2/repository/models/other/unload")[0] == 200
    assert {server.infer("other", ROW)[0] for _ in range(12)} == {404}
    assert index(server)["other 1"] == "UNAVAILABLE"
    assert post(server, "/v2/repository/models/other/load") == (200, {"name": "other", "version": "1"})
    assert {server.infer("other", ROW)[0] for _ in range(12)} == {200}


def test_administration_needs_the_key(server: LiveServer) -> None:
    assert server.get("/v2/repository/models/net/unload", b"{}")[0] == 401


def test_a_package_is_loaded_from_the_disk_of_the_server_and_from_the_request(
    server: LiveServer, tmp_path: Path
) -> None:
    for seed, name in ((2, "fromdisk"), (3, "uploaded")):
        nets.save(nets.mlp(4, seed=seed), tmp_path, f"{name}.onnx")
        packing.pack([tmp_path / f"{name}.onnx"], tmp_path / f"{name}.ship")
    path = json.dumps({"parameters": {"path": str(tmp_path / "fromdisk.ship")}}).encode()
    assert post(server, "/v2/repository/models/fromdisk/load", path)[0] == 200
    package = (tmp_path / "uploaded.ship").read_bytes()
    assert post(server, "/v2/repository/models/uploaded/load", package, "application/octet-stream")[0] == 200
    (tmp_path / "fromdisk.ship").unlink()  # the server has its own copy
    assert {server.infer(name, ROW)[0] for name in ("fromdisk", "uploaded") for _ in range(6)} == {200}


def test_what_is_no_package_is_refused_and_changes_nothing(server: LiveServer, tmp_path: Path) -> None:
    before = index(server)
    path = f"{tmp_path}/none.ship"
    for body, kind in (
        (b"garbage", "application/octet-stream"),
        (json.dumps({"parameters": {"path": path}}).encode(), "application/json"),
        (b"[", "application/json"),
    ):
        status, answer = post(server, "/v2/repository/models/net/load", body, kind)
        assert status == 400 and answer["error"]
    assert index(server) == before and server.infer("net", ROW)[0] == 200


def test_bodies_beyond_the_bound_are_refused_though_they_are_still_being_sent(server: LiveServer) -> None:
    status, answer = server.get("/v2/models/net/infer", bytes(3 << 20))
    assert status == 413 and b"--max-body" in answer


def test_a_worker_that_is_killed_is_started_anew_and_serves_the_same(server: LiveServer) -> None:
    before = index(server)
    workers = children(server.process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    until = time.monotonic() + 60
    while time.monotonic() < until and set(children(server.process.pid)) & {workers[0]}:
        time.sleep(0.05)
    assert {server.infer("net", ROW)[0] for _ in range(12)} == {200}  # by the one that is left
    while time.monotonic() < until and json.loads(server.get("/console/overview")[1])["server"]["workers"] < 2:
        time.sleep(0.2)
    assert index(server) == before and {server.infer("uploaded", ROW)[0] for _ in range(12)} == {200}


def children(pid: int) -> list[int]:
    import psutil

    return [
        child.pid
        for child in psutil.Process(pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline())
    ]


def test_what_was_loaded_outlives_a_kill_and_what_was_asked_is_answered_before_the_end(tmp_path: Path) -> None:
    models = [nets.save(nets.mlp(4), tmp_path, "net.onnx"), nets.save(counting(), tmp_path, "count.onnx")]
    nets.save(nets.mlp(4, seed=2), tmp_path, "more.onnx")
    with serving(tmp_path, models, "--no-grpc") as server:
        assert refused(models[0], "--state", server.state, "--http-port", free_port()) == 15  # two on one state
        path = json.dumps({"parameters": {"path": str(tmp_path / "more.onnx")}}).encode()
        assert post(server, "/v2/repository/models/more/load", path)[0] == 200
        server.process.kill()
        server.process.wait()
    (tmp_path / "more.onnx").unlink()
    with serving(tmp_path, models, "--no-grpc") as server:
        assert server.infer("more", ROW)[0] == 200 and server.infer("net", ROW)[0] == 200
        steps = {**SLOW[0], "data": [N_STEPS // 10]}
        for _ in range(2):  # they run on the loop, since it seemed to be quick, and have it leave the loop for good
            assert server.infer("count", [steps])[0] == 200
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(server.infer, "count", SLOW)
            while (
                b'tightship_inference_running_requests{model="count",version="1"} 1.0' not in server.get("/metrics")[1]
            ):
                assert not asked.done()
            assert server.stop() == 0
            status, answer = asked.result()
        assert status == 200 and answer["outputs"][0]["data"] == [N_STEPS]


def refused(*words: object) -> int:
    return main(["serve", *map(str, words), "--no-grpc"])


def test_a_server_that_cannot_start_says_why_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = nets.save(nets.mlp(4), tmp_path, "good.onnx"), tmp_path / "bad.onnx"
    bad.write_bytes(b"\x08\x09 not a model")
    state = ("--state", tmp_path / "state", "--http-port")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert refused(tmp_path / "none.onnx", *state, 0) == 3
        assert "none.onnx: no such file" in capsys.readouterr().err
        assert refused(good, *state, port) == 15
        assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err
        assert refused(good, *state, 0, "--passphrase-file", "fd:0") == 2
        assert "fd: can be read once" in capsys.readouterr().err


def test_a_worker_that_cannot_load_a_model_ends_the_start_of_all(tmp_path: Path) -> None:
    good, bad = nets.save(nets.mlp(4), tmp_path, "good.onnx"), tmp_path / "bad.onnx"
    bad.write_bytes(b"\x08\x09 not a model")
    command = [sys.executable, "-m", "tightship", "serve", str(good), str(bad), "--no-grpc", "--workers", "2"]
    command += ["--state", str(tmp_path / "state"), "--http-port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told = ended.stderr.strip().splitlines()
    assert ended.returncode == 15 and told[-1].startswith("error: bad (version 1) cannot be served: "), ended.stderr
    assert "Traceback" not in ended.stderr
