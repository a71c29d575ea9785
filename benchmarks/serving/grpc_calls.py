"""What a call over gRPC costs the server: the MLP of `against_peers`, and grpc.aio that runs nothing, in turns.

Sixteen connections from another process; processor time of all of the server's processes per answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from benchmarks.report import BUILD, finish
from benchmarks.serving.against_peers import CLIENTS, HERE, ROUNDS, SECONDS, WIDTH, cpu_s, make_model

FOLDER = BUILD / "serving"
HTTP_PORT, OUR_PORT, BARE_PORT = 18831, 18931, 18932


def request(path: Path) -> Path:
    """Write one call of ModelInfer with a raw tensor."""
    from tightship.serve.grpc_service.messages import message

    x = np.random.default_rng(1).normal(size=(1, WIDTH)).astype(np.float32)
    made = message("ModelInferRequest")(model_name="model", raw_input_contents=[x.tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    path.write_bytes(made.SerializeToString())
    return path


@contextmanager
def running(*command: str) -> Iterator[psutil.Process]:
    """Run a server of gRPC; its clients wait until it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def measured(port: int, process: psutil.Process, file: Path) -> tuple[float, float]:
    """Return answers per second and processor microseconds of the server per answer."""
    command = [sys.executable, str(HERE / "grpc_loop.py"), str(port), str(CLIENTS), str(SECONDS), str(file)]
    before = cpu_s(process)
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    spent = cpu_s(process) - before
    found = json.loads(done.stdout)
    return found["answers"] / found["seconds"], spent / found["answers"] * 1e6


def main() -> None:
    """Take turns, and write medians and ratios."""
    model = FOLDER / "model.onnx"
    make_model(model)
    file = request(FOLDER / "grpc.request")
    ours: tuple[str, ...] = (sys.executable, "-m", "tightship", "serve", str(model), "--http-port", str(HTTP_PORT))
    ours += ("--grpc-port", str(OUR_PORT), "--state", str(FOLDER / "state-grpc"))
    bare = (sys.executable, str(HERE / "peers" / "bare_grpc.py"), str(model), str(BARE_PORT))
    rounds: dict[str, list[tuple[float, float]]] = {"tightship": [], "bare grpc.aio": []}
    with ExitStack() as stack:
        up = (stack.enter_context(running(*ours)), stack.enter_context(running(*bare)))
        for port, process in zip((OUR_PORT, BARE_PORT), up, strict=True):
            measured(port, process, file)  # to warm up
        for _ in range(ROUNDS):
            for name, port, process in zip(rounds, (OUR_PORT, BARE_PORT), up, strict=True):
                rounds[name].append(measured(port, process, file))
    ratios = sorted(mine[1] / theirs[1] for mine, theirs in zip(*rounds.values(), strict=True))
    rows = [
        {"server": name, "per s": median(rate for rate, _ in found), "cpu us": median(cpu for _, cpu in found)}
        for name, found in rounds.items()
    ]
    rows[0] |= {"cpu / bare": median(ratios), "low": ratios[0], "high": ratios[-1]}
    rows[1] |= {"cpu / bare": 1.0, "low": 1.0, "high": 1.0}
    about = f"an MLP over gRPC on loopback, {CLIENTS} clients, one worker: medians of {ROUNDS} rounds"
    finish("serving_grpc", about, rows)


if __name__ == "__main__":
    main()
