"""Minutes of good load and abuse at once: does any good request fail, and does the server's memory stay flat?

    python -m benchmarks.serving.soak [MINUTES, 10 by default]

Ends with 1 where a good request failed, a process died, or memory, open files or threads grew.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import psutil

from benchmarks.report import finish
from benchmarks.serving import _abuse, _good_load
from tests.serve.live import LiveServer, serving

WORKERS = 2
SAMPLE_S = 2.0
FLAT_FRACTION = 0.05
"""How much more memory at the end than after warming up counts as flat: allocators keep what they once had."""

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


def soak(server: LiveServer, minutes: float) -> tuple[list[Sample], Any, Any]:
    """Load and abuse; return the samples, what the good clients tell and what the others."""
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
    samples = []
    while time.time() < until:
        samples.append(sample(server))
        time.sleep(SAMPLE_S)
    told = good.get(timeout=120), bad.get(timeout=120)
    for client in clients:
        client.join(30)
    return samples, *told


def main() -> None:
    """Run, report, and end with 1 where it was not as it should be."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model("tiny", *MODELS["tiny"], layers=1), folder / "tiny.onnx")
        onnx.save(model("wide", *MODELS["wide"], layers=12), folder / "wide.onnx")
        models = [folder / "tiny.onnx", folder / "wide.onnx"]
        with serving(folder, models, "--workers", str(WORKERS)) as server:
            before = sample(server)
            samples, (asked, failed, slowest_s), abused = soak(server, minutes)
            time.sleep(5)
            after = sample(server)
    rows = _rows(minutes, before, samples, after, asked, failed, slowest_s, abused)
    finish("soak", "Good load and abuse at once: memory, files and threads of the server; failed good requests", rows)
    for reason, count in failed.items():
        print(f"failed {count} times: {reason}")
    sys.exit(1 if failed or not all(row["as it should be"] for row in rows) else 0)


def _rows(
    minutes: float,
    before: Sample,
    samples: list[Sample],
    after: Sample,
    asked: dict[str, int],
    failed: dict[str, int],
    slowest_s: float,
    abused: dict[str, int],
) -> list[dict[str, Any]]:
    """Compare the third tenth of the time, when all has warmed up, with the last."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[2 * tenth : 3 * tenth], samples[-tenth:]

    def row(what: str, start: Any, end: Any, well: bool) -> dict[str, Any]:
        return {"what": what, "start": start, "end": end, "as it should be": well}

    def median(part: list[Sample], field: str) -> float:
        return statistics.median(getattr(entry, field) for entry in part)

    mib = {moment: median(part, "uss_bytes") / 2**20 for moment, part in (("early", early), ("late", late))}
    flat = mib["late"] <= mib["early"] * (1 + FLAT_FRACTION)
    threads = (median(early, "threads"), median(late, "threads"))
    return [
        row("minutes", minutes, minutes, True),
        row("good requests, and failed of them", sum(asked.values()), sum(failed.values()), not failed),
        row("longest wait of a good request, s", 0.0, round(slowest_s, 3), slowest_s < _good_load.PATIENCE_S),
        row("times of abuse", 0, sum(abused.values()), len(abused) >= len(_abuse.ABUSES)),
        row("memory in use, MiB", round(mib["early"], 1), round(mib["late"], 1), flat),
        row("memory before and after all, MiB", *(round(s.uss_bytes / 2**20, 1) for s in (before, after)), True),
        row("open files before and after all", before.files, after.files, after.files <= before.files + 30),
        row("threads", *threads, threads[1] <= threads[0] + 4),
        row("processes that were replaced", 0, len({*after.processes} - {*before.processes}), True)
        | {"as it should be": before.processes == after.processes},
    ]


if __name__ == "__main__":
    main()
