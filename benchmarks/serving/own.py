"""What serving adds to the engine, on this machine: in one process, in batches, at the start.

In process: the application is called by ASGI, without a socket, interleaved with the bare ONNX Runtime session on the
same input. Batches: a wide MLP asked by 64 clients of another process, with runs shared and with `--max-batch 1`.
Start: from the command to the first answer of a ResNet-18. To reach: 0.95 of bare ORT for a ResNet-18 in binary, 0.7 in
JSON, 0.40 for a tiny MLP in binary; batches 3 times as fast; the first answer within 1.5 s.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import BUILD, finish
from benchmarks.serving.against_peers import Server, load, running

FOLDER = BUILD / "serving"
SECONDS = 10.0
N_STARTS = 5
CLIENTS = 64
ROUNDS = 3
WIDE = 1024
BATCHED_PORT, APART_PORT, START_PORT = 18821, 18822, 18823


def multilayer(path: Path, *widths: int) -> Path:
    """Products and ReLUs of these widths: x [n, first] -> y [n, last]."""
    import onnx

    random = np.random.default_rng(0)
    lines, weights, name = [], [], "x"
    for number, (rows, columns) in enumerate(pairwise(widths)):
        array = random.normal(scale=rows**-0.5, size=(rows, columns)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(array, f"w{number}"))
        last = number == len(widths) - 2
        lines.append(f"p{number} = MatMul({name}, w{number})")
        lines.append(f"{'y' if last else f'h{number}'} = {'Identity' if last else 'Relu'}(p{number})")
        name = f"h{number}"
    head = '<ir_version: 9, opset_import: ["" : 17]>'
    text = f"{head} net (float[n, {widths[0]}] x) => (float[n, {widths[-1]}] y) {{ {' '.join(lines)} }}"
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def resnet18(path: Path) -> Path:
    """torchvision's layout of a ResNet-18 with random weights: x [n, 3, 224, 224] -> 1000 classes."""
    if path.exists():
        return path
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, wide: int, out: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Sequential(
                nn.Conv2d(wide, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
                nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
            )  # fmt: skip
            self.side = nn.Sequential()
            if stride != 1:
                self.side = nn.Sequential(nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.first(x) + self.side(x))

    sizes = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))
    net = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        *(Block(*size) for size in (*sizes, (512, 512, 1))),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("n")
    torch.onnx.export(
        net.eval(), (torch.randn(2, 3, 224, 224),), str(path), input_names=["x"], output_names=["y"],
        dynamo=True, dynamic_shapes=({0: batch},), external_data=False, verbose=False,
    )  # fmt: skip
    return path


def requested(shape: tuple[int, ...], binary: bool) -> tuple[bytes, tuple[tuple[str, str], ...], np.ndarray]:
    """Return a request's body, its headers and the array in it."""
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    tensor: dict[str, Any] = {"name": "x", "shape": list(shape), "datatype": "FP32"}
    if not binary:
        document = json.dumps({"inputs": [{**tensor, "data": x.ravel().tolist()}]}).encode()
        return document, (("content-type", "application/json"),), x
    tensor["parameters"] = {"binary_data_size": x.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    named = (("content-type", "application/octet-stream"), ("inference-header-content-length", str(len(head))))
    return head + x.tobytes(), named, x


def in_process(name: str, model: Path, shape: tuple[int, ...], binary: bool) -> dict[str, Any]:
    """Time the application and the bare session in turns; ratios of the two in each turn."""
    import onnxruntime as ort
    import uvloop

    from tightship.serve.application import Application
    from tightship.serve.catalogue import Catalogue
    from tightship.serve.loaded import Opener
    from tightship.serve.metrics import Metrics
    from tightship.serve.routing import Routes
    from tightship.serve.service import Service
    from tightship.serve.settings import Limits, ServeSettings

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    bare = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    metrics = Metrics()
    catalogue = Catalogue(Opener(Limits(), threads=1), metrics)
    catalogue.load("model", "1", model)
    catalogue.route("model", Routes("1"))
    body, headers, x = requested(shape, binary)
    application = Application(Service(ServeSettings(FOLDER), catalogue, metrics), lambda service: application)
    named = [(key.encode(), value.encode()) for key, value in (*headers, ("content-length", str(len(body))))]
    path = "/v2/models/model/infer"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": named}
    answered: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        answered.append(message)

    async def ask() -> None:
        answered.clear()
        await application(scope, receive, send)

    async def turns() -> tuple[list[float], list[float]]:
        catalogue.loop = asyncio.get_running_loop()
        await ask()
        assert answered[0]["status"] == 200, answered[1]["body"]
        ours, theirs, until = [], [], time.perf_counter() + SECONDS
        while time.perf_counter() < until:
            theirs.append(await _timed(10, lambda: _sync(bare.run(None, {"x": x}))))
            ours.append(await _timed(10, ask))
        return ours, theirs

    ours, theirs = uvloop.run(turns())
    ratios = sorted(bare_s / own_s for own_s, bare_s in zip(ours, theirs, strict=True))
    catalogue.loop = None
    catalogue.close()
    return {
        "what": f"in process: {name}",
        "bare ms": median(theirs) * 1e3,
        "ours ms": median(ours) * 1e3,
        "ratio": median(ratios),
        "low": ratios[len(ratios) // 10],
        "high": ratios[-len(ratios) // 10],
    }


async def _sync(value: object) -> object:
    return value


async def _timed(n_runs: int, run: Callable[[], Coroutine[Any, Any, object]]) -> float:
    """Seconds of one run, the quickest of a few: others use this machine too."""
    best = float("inf")
    for _ in range(n_runs):
        started = time.perf_counter()
        await run()
        best = min(best, time.perf_counter() - started)
    return best


def batches(folder: Path) -> dict[str, Any]:
    """Answers a second of 64 clients, with runs shared and apart, in turns."""
    model = multilayer(folder / "wide.onnx", *(WIDE,) * 7)
    body, headers, _ = requested((1, WIDE), binary=True)

    def server(name: str, port: int, *more: str) -> Server:
        command = (sys.executable, "-m", "tightship", "serve", str(model), "--http-port", str(port), "--no-grpc")
        command += ("--threads", "1", "--state", str(folder / f"state-{name}"), *more)
        return Server(name, command, port, "/v2/models/wide/infer", body, headers)

    together, apart = server("batched", BATCHED_PORT), server("apart", APART_PORT, "--max-batch", "1")
    rates: dict[str, list[float]] = {"batched": [], "apart": []}
    with running(together, folder) as first, running(apart, folder) as second:
        assert first is not None and second is not None, f"a server does not answer; its log is in {folder}"
        for _ in range(ROUNDS):
            for each in (together, apart):
                found = load(each, CLIENTS, 3.0)
                assert not found["failures"], found["first failure"]
                rates[each.name].append(found["answers"] / found["seconds"])
    ratios = [one / other for one, other in zip(rates["batched"], rates["apart"], strict=True)]
    return {
        "what": f"{CLIENTS} clients: a run shared by up to 32, against runs apart (per s)",
        "bare ms": 1e3 / median(rates["apart"]),
        "ours ms": 1e3 / median(rates["batched"]),
        "ratio": median(ratios),
        "low": min(ratios),
        "high": max(ratios),
    }


def starts(model: Path, folder: Path) -> dict[str, Any]:
    """Seconds from the command to the first answer."""
    body, headers, _ = requested((1, 3, 224, 224), binary=True)
    taken = []
    for _ in range(N_STARTS):
        command = [sys.executable, "-m", "tightship", "serve", str(model), "--http-port", str(START_PORT)]
        command += ["--no-grpc", "--state", str(folder / "state-start")]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while _first_answer(START_PORT, model.stem, body, dict(headers)) != 200:
            assert process.poll() is None, "the server ended"
            time.sleep(0.005)
        taken.append(time.perf_counter() - started)
        process.terminate()
        process.wait()
    ordered = sorted(taken)
    return {
        "what": "from the command to the first answer, ResNet-18 (ms)",
        "bare ms": "",
        "ours ms": median(taken) * 1e3,
        "ratio": "",
        "low": ordered[0] * 1e3,
        "high": ordered[-1] * 1e3,
    }


def _first_answer(port: int, model: str, body: bytes, headers: dict[str, str]) -> int:
    import http.client

    with suppress(OSError):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status
    return 0


def main() -> None:
    """Measure all, write the result."""
    tiny = multilayer(FOLDER / "tiny.onnx", 64, 64, 10)
    large = resnet18(FOLDER / "resnet18.onnx")
    image = (1, 3, 224, 224)
    rows = [
        in_process("an MLP of 64, 64, 10, binary", tiny, (1, 64), True),
        in_process("an MLP of 64, 64, 10, JSON", tiny, (1, 64), False),
        in_process("a ResNet-18, binary", large, image, True),
        in_process("a ResNet-18, JSON", large, image, False),
        batches(FOLDER),
        starts(large, FOLDER),
    ]
    finish("serving_own", "what serving adds: ratios to bare ONNX Runtime, runs apart; one thread", rows)


if __name__ == "__main__":
    main()
