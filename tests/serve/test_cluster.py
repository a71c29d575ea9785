"""Packages on a Ray cluster, which is started for the test by a Python that has Ray."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from tests.serve.live import free_port
from tightship.api.clustering import serve_cluster
from tightship.api.packing import pack
from tightship.errors import MissingExtra, ServeError, UsageError
from tightship.package.opening import open_session
from tightship.serve import cluster
from tightship.serve.settings import ServeSettings

SCRIPT = """
import json, os, signal, sys, threading, urllib.request
from pathlib import Path
from tightship.api.clustering import serve_cluster
from tightship.serve.settings import ServeSettings

def ask(url, path, data=None):
    with urllib.request.urlopen(urllib.request.Request(url + path, data), timeout=60) as answer:
        return json.loads(answer.read())

def running(where):
    body = sys.stdin.read().encode()
    ready = ask(where.url, "/v2/health/ready")["ready"]
    answers = [ask(where.url, "/v2/models/net/infer", body)["outputs"][0]["data"] for _ in range(8)]
    print(json.dumps({"models": where.models, "ready": ready, "answers": answers}))
    os.kill(os.getpid(), signal.SIGTERM)

serve_cluster(ServeSettings(Path("none"), (sys.argv[1],), http_port=int(sys.argv[2]), workers=2), running)
"""


@pytest.mark.slow
def test_replicas_on_a_cluster_answer_as_the_model_does(tmp_path: Path) -> None:
    python = os.environ.get("TIGHTSHIP_RAY")
    if python is None:
        pytest.skip("set TIGHTSHIP_RAY to a Python that has tightship[cluster]")
    pack([nets.save(nets.mlp(8), tmp_path)], tmp_path / "net.ship")
    x = np.linspace(-1, 1, 8, dtype=np.float32)
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 8], "datatype": "FP32", "data": x.tolist()}]})
    patient = {f"RAY_SERVE_PROXY_{what}_CHECK_TIMEOUT_S": "120" for what in ("READY", "HEALTH")}
    done = subprocess.run(
        [python, "-c", SCRIPT, str(tmp_path / "net.ship"), str(free_port())],
        input=body,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **patient},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    with open_session(tmp_path / "net.ship") as session:
        expected = session.run({"x": x[None]})["y"][0]
    assert told["models"] == ["net"]
    assert told["ready"]
    np.testing.assert_allclose(told["answers"], np.tile(expected, (8, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (ServeSettings(Path("none")), UsageError, "name the packages"),
        (ServeSettings(Path("none"), ("a.onnx",)), UsageError, "a.onnx is not a package"),
        (ServeSettings(Path("none"), ("a.ship",), host="0.0.0.0"), ServeError, "no API keys on a cluster"),
    ],
)
def test_what_a_cluster_cannot_serve_is_told_before_anything_is_started(
    settings: ServeSettings, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        cluster.check(settings)


def test_without_ray_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"tightship serve --cluster\) needs ray, which is not installed"):
        serve_cluster(ServeSettings(Path("none"), ("a.ship",)), lambda running: None)
