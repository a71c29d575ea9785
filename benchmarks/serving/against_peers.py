"""A small MLP behind tightship and behind other servers, on this machine, in turns: rate, latency, processor time.

All run the same ONNX file in ONNX Runtime on one thread with one worker, and are asked in JSON (each in its own
protocol where it has one) by `CLIENTS` connections from another process. Every server is up the whole time; they take
turns, several rounds. Bare ASGI reads the body and sends as many bytes back: what the HTTP layer alone costs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks.report import BUILD, finish
from benchmarks.serving.closed_loop import http_request

CLIENTS = 16
ROUNDS = 5
SECONDS = 3.0
START_S = 120
WIDTH = 64
HERE = Path(__file__).parent
PEERS = Path(os.environ.get("TIGHTSHIP_SERVING_PEERS", HERE.parent.parent / ".serving-peers"))
"""Two environments, `one` and `two`: MLServer's requirements and KServe's exclude each other."""

SECOND = ("kserve_sdk.py", "ray_serve.py")
PATH = "/v2/models/model/infer"


@dataclass(frozen=True)
class Server:
    """How a server is started on a port, what it is asked, and how: a path, a body, headers."""

    name: str
    command: tuple[str, ...]
    port: int
    path: str = PATH
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)

    @property
    def request(self) -> bytes:
        return http_request(self.path, self.body, dict(self.headers))


def make_model(path: Path) -> None:
    """Write an MLP of 64, 64 and 10, so small that the server is measured and not the engine."""
    import onnx

    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    model (float[batch, {WIDTH}] x) => (float[batch, 10] y) {{
        h = Gemm(x, a)
        r = Relu(h)
        y = Gemm(r, b)
    }}"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in (("a", (WIDTH, WIDTH)), ("b", (WIDTH, 10))):
        array = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def servers(model: Path, folder: Path) -> list[Server]:
    x = np.random.default_rng(1).normal(size=(1, WIDTH)).astype(np.float32)
    tensor = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "data": [round(float(v), 6) for v in x.ravel()]}
    v2 = json.dumps({"inputs": [tensor]}).encode()
    head = {**tensor, "parameters": {"binary_data_size": x.nbytes}}
    del head["data"]
    start = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
    binary = (("content-type", "application/octet-stream"), ("inference-header-content-length", str(len(start))))
    ours = (sys.executable, "-m", "tightship", "serve", str(model), "--http-port", "18801", "--grpc-port", "18901")
    ours += ("--state", str(folder / "state"))

    def peer(script: str, port: int, *more: str) -> tuple[str, ...]:
        python = PEERS / ("two" if script in SECOND else "one") / "bin" / "python"
        return (str(python), str(HERE / "peers" / script), str(model), str(port), *more)

    found = [
        Server("tightship", ours, 18801, body=v2),
        Server("tightship, binary", (), 18801, body=start + x.tobytes(), headers=binary),
        Server("bare ASGI (uvicorn)", peer("bare_asgi.py", 18802), 18802, body=v2),
        Server("FastAPI and pydantic", peer("fastapi_pydantic.py", 18803), 18803, body=v2),
        Server("KServe", peer("kserve_sdk.py", 18804), 18804, body=v2),
        Server("MLServer", peer("mlserver_runtime.py", 18805, str(folder / "mlserver")), 18805, body=v2),
        Server("LitServe", peer("litserve_api.py", 18806), 18806, path="/predict", body=v2),
        Server(
            "BentoML",
            peer("bentoml_service.py", 18807),
            18807,
            path="/infer",
            body=json.dumps({"x": x.tolist()}).encode(),
        ),
        Server("Ray Serve", peer("ray_serve.py", 18808), 18808, path="/", body=v2),
    ]
    return [server for server in found if PEERS.exists() or "tightship" in server.name]


@contextmanager
def running(server: Server, folder: Path) -> Iterator[psutil.Process | None]:
    """The server, answering; None where it does not start."""
    log = (folder / f"{server.name.replace(' ', '-')}.log").open("wb")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0", "BENTOML_DO_NOT_TRACK": "True"}
    process = subprocess.Popen(
        server.command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
        yield psutil.Process(process.pid) if _answers(server, process) else None
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.terminate()
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


def _answers(server: Server, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError, ValueError):
            if load(server, 1, 0.05)["failures"] == 0:
                return True
        time.sleep(0.5)
    return False


def load(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    """Run the clients in a process of their own."""
    file = BUILD / "serving" / f"{server.name.replace(' ', '-')}.request"
    file.write_bytes(server.request)
    arguments = [str(server.port), str(clients), str(seconds), str(file)]
    script = [sys.executable, str(HERE / "closed_loop.py"), *arguments]
    done = subprocess.run(script, capture_output=True, check=False, timeout=seconds + 60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def cpu_s(process: psutil.Process) -> float:
    """Processor seconds of a process and of all below it."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def measured(server: Server, process: psutil.Process) -> dict[str, float]:
    before = cpu_s(process)
    found = load(server, CLIENTS, SECONDS)
    if found["failures"]:
        raise RuntimeError(f"{server.name}: {found['failures']} failures, the first: {found['first failure']}")
    spent = cpu_s(process) - before
    return {
        "per s": found["answers"] / found["seconds"],
        "p50 ms": found["p50 ms"],
        "p99 ms": found["p99 ms"],
        "cpu us": spent / found["answers"] * 1e6,
    }


def row(name: str, rounds: list[Mapping[str, float]], ours: list[Mapping[str, float]]) -> dict[str, Any]:
    """Medians, and how much more or less ours is, round by round: median (lowest to highest)."""
    found: dict[str, Any] = {"server": name} | {key: median(each[key] for each in rounds) for key in rounds[0]}
    for key in ("per s", "cpu us", "p99 ms"):
        ratios = [mine[key] / theirs[key] for mine, theirs in zip(ours, rounds, strict=True)]
        found[f"ours / its {key}"] = f"{median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})"
    return found


def main() -> None:
    """Start all, take turns, write the result."""
    folder = BUILD / "serving"
    model = folder / "model.onnx"
    make_model(model)
    with ExitStack() as stack:
        up: dict[Server, psutil.Process] = {}
        failed: list[str] = []
        for server in servers(model, folder):
            if not server.command:
                up[server] = next(iter(up.values()))
                continue
            process = stack.enter_context(running(server, folder))
            if process is None:
                failed.append(server.name)
                print(f"{server.name} does not answer; see its log in {folder}", flush=True)
            else:
                up[server] = process
        rounds: dict[str, list[Mapping[str, float]]] = {server.name: [] for server in up}
        for _ in range(ROUNDS):
            for server, process in up.items():
                rounds[server.name].append(measured(server, process))
    rows = [row(name, found, rounds["tightship"]) for name, found in rounds.items()]
    rows += [{"server": name, "failed": "did not answer"} for name in failed]
    about = f"an MLP over HTTP on loopback, {CLIENTS} clients, one worker: medians of {ROUNDS} rounds"
    finish("serving_peers", about, rows)


if __name__ == "__main__":
    main()
