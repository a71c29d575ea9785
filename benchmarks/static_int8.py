"""Cost of calibrating and writing a static int8 model, against `onnxruntime.quantization.quantize_static`.

Each run is a process of its own, from its first import to the file on disk; the two take turns. To reach: at most half
the processor time (user and system) and no more peak memory on 100 samples, and a peak that does not grow with them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = ("resnet50", "bert_base")
SMALL_NETWORK = "vit_tiny"
N_SAMPLES = 100
N_MANY_SAMPLES = 1000
N_ROUNDS = 3

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Cost:
    """What one process took: processor and wall seconds, peak resident memory in 10^6 bytes."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def samples(network: str, n_samples: int) -> Iterator[dict[str, np.ndarray]]:
    """The same made-up inputs for both, one at a time."""
    random = np.random.default_rng(0)
    for _ in range(n_samples):
        if network == "bert_base":
            yield {
                "input_ids": random.integers(1000, 30000, (1, 128)),
                "attention_mask": np.ones((1, 128), dtype=np.int64),
            }
        else:
            yield {"x": random.standard_normal((1, 3, 224, 224), dtype=np.float32)}


def ours(network: str, source: Path, n_samples: int, made: Path) -> None:
    """tightship's `int8-static` with its defaults."""
    from tightship import formats
    from tightship.core.artifact import Artifact
    from tightship.core.dataset import Batch, Dataset
    from tightship.passes.int8_static import Int8Static

    data = Dataset("noise", "0", lambda: map(Batch, samples(network, n_samples)))
    model = formats.read(Artifact(source, "onnx"))
    formats.write(Int8Static().apply(model, data).model, made)


def quantize_static(network: str, source: Path, n_samples: int, made: Path) -> None:
    """ONNX Runtime's quantizer with its defaults and per-channel weights."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = samples(network, n_samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    onnxruntime.set_default_logger_severity(4)
    quantize_static(source, made, Reader(), per_channel=True)


MAKERS = {"ours": ours, "quantize_static": quantize_static}


def cost(maker: str, network: str, n_samples: int) -> Cost:
    """Run one maker in a process of its own and return what it took."""
    source = ROOT / "build" / "networks" / network / "model.onnx"
    made = source.with_name(f"{maker}.onnx")
    command = [sys.executable, "-m", "benchmarks.static_int8", maker, network, str(source), str(n_samples), str(made)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{maker} failed on {network} with exit code {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e6)


def export(network: str) -> None:
    """Make the network's ONNX file, also in a process of its own: a child's peak counts what its parent held."""
    code = f"from benchmarks.choice import exported; exported({network!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def compare(network: str) -> dict[str, Any]:
    """Both makers in turns on one network."""
    rounds = []
    for number in range(N_ROUNDS):
        rounds.append({maker: cost(maker, network, N_SAMPLES) for maker in MAKERS})
        taken = ", ".join(f"{maker} {entry.cpu_s:.1f} s {entry.peak_mb:.0f} MB" for maker, entry in rounds[-1].items())
        print(f"{network} round {number + 1} of {N_ROUNDS}: {taken}", flush=True)
    row: dict[str, Any] = {"network": network, "samples": N_SAMPLES}
    for maker in MAKERS:
        costs = [entry[maker] for entry in rounds]
        row[f"{maker} cpu s"] = statistics.median(entry.cpu_s for entry in costs)
        row[f"{maker} wall s"] = statistics.median(entry.wall_s for entry in costs)
        row[f"{maker} peak MB"] = max(entry.peak_mb for entry in costs)
    ratios = [entry["ours"].cpu_s / entry["quantize_static"].cpu_s for entry in rounds]
    row |= {"cpu ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    row["peak ratio"] = row["ours peak MB"] / row["quantize_static peak MB"]
    return row


def growth() -> dict[str, Any]:
    """Peak memory of ours on few and on many samples of a small network."""
    few, many = (cost("ours", SMALL_NETWORK, n_samples) for n_samples in (N_SAMPLES, N_MANY_SAMPLES))
    print(f"{SMALL_NETWORK}: peak {few.peak_mb:.0f} MB on {N_SAMPLES}, {many.peak_mb:.0f} MB on {N_MANY_SAMPLES}")
    row = {"network": SMALL_NETWORK, "samples": N_MANY_SAMPLES, "ours cpu s": many.cpu_s, "ours wall s": many.wall_s}
    return row | {"ours peak MB": many.peak_mb, "peak MB on 100": few.peak_mb, "peak ratio": many.peak_mb / few.peak_mb}


def main() -> None:
    """Measure, or (given arguments) be one of the measured processes."""
    if len(sys.argv) == 6:
        maker, network, source, n_samples, made = sys.argv[1:]
        MAKERS[maker](network, Path(source), int(n_samples), Path(made))
        return
    for network in (*NETWORKS, SMALL_NETWORK):
        export(network)
    rows = [*(compare(network) for network in NETWORKS), growth()]
    columns = dict.fromkeys(key for row in rows for key in row)

    from benchmarks.report import finish

    about = "calibrating and writing static int8: each in its own process, in turns; medians, ratio with its range"
    finish("static_int8", about, [{key: row.get(key, "") for key in columns} for row in rows])


if __name__ == "__main__":
    main()
