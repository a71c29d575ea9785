"""Minutes of good load and abuse at once: does any good request fail, and does the server's memory stay flat?

    python -m benchmarks.serving.soak [MINUTES, 10 by default]

Ends with 1 where a good request failed, a process died, or memory, open files or threads grew.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import psutil

from benchmarks.report import finish
from benchmarks.serving import _abuse, _good_load
from tests.serve.live import LiveServer, serving

WORKERS = 2
SAMPLE_S = 2.0
PARTS = (0.3, 0.7)
"""Of the time. After each part all is quiet for a while; the second must end with the memory of the first."""

QUIET_S = 30.0
FLAT_FRACTION = 0.05
"""How much more memory still counts as flat: allocators keep some of what they once had."""

MODELS = {"tiny": (16, 4), "wide": (512, 256)}
"""Width of input and output; the tiny one runs on the event loop, the wide one is made slow enough to batch."""


@dataclass(frozen=True)
class Sample:
    """The whole server at one moment: memory that is its alone, open files, threads, processes."""

    uss_bytes: int
    files: int
    threads: int
    processes: tuple[int, ...]


def model(name: str, inputs: int, outputs: int, layers: int) -> onnx.ModelProto:
    """Return a model of the rows' mean times 2, in `outputs` columns, after `layers` products that change nothing."""
    import numpy as np

    body = "".join(f"h{layer + 1} = MatMul(h{layer}, identity) " for layer in range(layers))
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    {name} (float[n, {inputs}] x) => (float[n, {outputs}] y)
    <float[{inputs}, {inputs}] identity, float[{inputs}, {outputs}] mean>
    {{ h0 = Identity(x) {body} y = MatMul(h{layers}, mean) }}"""
    made = onnx.parser.parse_model(text)
    values = {"identity": np.eye(inputs), "mean": np.full((inputs, outputs), 2.0 / inputs)}
    del made.graph.initializer[:]
    for key, value in values.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), key))
    return made


def sample(server: LiveServer) -> Sample:
    """Measure the server and its workers."""
    parent = psutil.Process(server.process.pid)
    family = [parent, *parent.children(recursive=True)]
    return Sample(
        sum(process.memory_full_info().uss for process in family),
        sum(process.num_fds() for process in family),
        sum(process.num_threads() for process in family),
        tuple(sorted(process.pid for process in family)),
    )


@dataclass
class Told:
    """What the clients told, and what was measured meanwhile."""

    asked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    abused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)


def soak(server: LiveServer, minutes: float, told: Told) -> None:
    """Load and abuse the server, each from a process of its own."""
    context = multiprocessing.get_context("spawn")
    good, bad = context.Queue(), context.Queue()
    until = time.time() + 60 * minutes
    ports = (server.http_port, server.grpc_port)
    clients = [
        context.Process(target=_good_load.run, args=(*ports, MODELS, until, good), daemon=True),
        context.Process(target=_abuse.run, args=(*ports, "wide", MODELS["wide"][0], until - 5, bad), daemon=True),
    ]
    for client in clients:
        client.start()
    while time.time() < until:
        told.samples.append(sample(server))
        time.sleep(SAMPLE_S)
    asked, failed, slowest_s = good.get(timeout=120)
    told.asked.update(asked)
    told.failed.update(failed)
    told.abused.update(bad.get(timeout=120))
    told.slowest_s = max(told.slowest_s, slowest_s)
    for client in clients:
        client.join(30)


def main() -> None:
    """Run, report, and end with 1 where it was not as it should be."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    told = Told()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model("tiny", *MODELS["tiny"], layers=1), folder / "tiny.onnx")
        onnx.save(model("wide", *MODELS["wide"], layers=12), folder / "wide.onnx")
        models = [folder / "tiny.onnx", folder / "wide.onnx"]
        with serving(folder, models, "--workers", str(WORKERS)) as server:
            quiet = [sample(server)]
            for part in PARTS:
                soak(server, minutes * part, told)
                time.sleep(QUIET_S)
                quiet.append(sample(server))
    rows = _rows(minutes, quiet, told)
    finish("soak", "Good load and abuse at once: memory, files and threads of the server; failed good requests", rows)
    for reason, count in told.failed.items():
        print(f"failed {count} times: {reason}")
    sys.exit(0 if all(row["as it should be"] for row in rows) else 1)


def _rows(minutes: float, quiet: list[Sample], told: Told) -> list[dict[str, Any]]:
    """Compare the quiet after the first part, when all has warmed up, with that after the second."""
    before, first, last = quiet
    mib = [round(moment.uss_bytes / 2**20, 1) for moment in quiet]
    most = round(max(moment.uss_bytes for moment in told.samples) / 2**20, 1)
    asked, failed, abused = told.asked.total(), told.failed.total(), told.abused.total()

    def row(what: str, start: Any, end: Any, well: bool) -> dict[str, Any]:
        return {"what": what, "start": start, "end": end, "as it should be": well}

    return [
        row("minutes", 0, minutes, True),
        row("good requests, and failed of them", asked, failed, asked > 0 and not failed),
        row("longest wait of a good request, s", 0.0, round(told.slowest_s, 3), told.slowest_s < _good_load.PATIENCE_S),
        row("times of abuse, and ways", abused, len(told.abused), len(told.abused) == len(_abuse.ABUSES)),
        row("memory after 30 % and at the end, MiB", *mib[1:], mib[2] <= mib[1] * (1 + FLAT_FRACTION)),
        row("memory before, and most under load, MiB", mib[0], most, True),
        row("open files after 30 % and at the end", first.files, last.files, last.files <= first.files + 2),
        row("threads after 30 % and at the end", first.threads, last.threads, last.threads <= first.threads + 2),
        row(
            "processes that were replaced",
            0,
            len({*last.processes} - {*before.processes}),
            before.processes == last.processes,
        ),
    ]


if __name__ == "__main__":
    main()
