"""Size, write and read speed of each container of weights, on a model of 500 MB made for it.

A third each of float32, bfloat16 and int8, drawn from a normal distribution as trained weights are. Speeds are medians
of three, in MB of tensors per second: by the clock, and by processor time of this process and its children, which a
busy machine does not change. Reading loads every tensor; nothing is hashed. Files are in the page cache.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import finish
from tightship.weights import CONTAINERS, Container, Tensor, Weights
from tightship.weights.hdf5 import Hdf5

MODEL_BYTES = int(os.environ.get("WEIGHTS_BYTES", 500_000_000))
RUNS = 3
LAYER_BYTES = 12_500_000

EACH: dict[str, Container] = {
    "safetensors": CONTAINERS["safetensors"],
    "PyTorch": CONTAINERS["torch"],
    "NumPy": CONTAINERS["numpy"],
    "pickle": CONTAINERS["pickle"],
    "HDF5": Hdf5(),
    "HDF5, lzf": Hdf5("lzf"),
    "HDF5, blosc": Hdf5("blosc"),
    "JSON": CONTAINERS["json"],
    "HDF5, gzip": Hdf5("gzip"),
}


def model() -> Weights:
    """Layers of 12.5 MB."""
    import ml_dtypes

    rng, tensors = np.random.default_rng(0), {}
    for index in range(MODEL_BYTES // LAYER_BYTES):
        dtype = (np.dtype("float32"), np.dtype(ml_dtypes.bfloat16), np.dtype("int8"))[index % 3]
        values = rng.standard_normal((500, LAYER_BYTES // 500 // dtype.itemsize), np.float32)
        array = np.clip(values * 32, -127, 127) if dtype == np.int8 else values * np.float32(0.02)
        tensors[f"layers.{index}.weight"] = Tensor.from_array(array.astype(dtype))
    return Weights.of(tensors)


def measured(work: Callable[[], None], n_bytes: int) -> tuple[float, float]:
    """MB per second by the clock and by processor time."""
    runs = []
    for _ in range(RUNS):
        clock, processor = time.perf_counter(), _processor_s()
        work()
        runs.append((time.perf_counter() - clock, _processor_s() - processor))
    clocks, processors = zip(*runs, strict=True)
    return n_bytes / 1e6 / statistics.median(clocks), n_bytes / 1e6 / statistics.median(processors)


def _processor_s() -> float:
    used = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def row(name: str, container: Container, weights: Weights, folder: Path) -> dict[str, Any]:
    """The numbers of one container."""
    path = folder / f"weights{container.suffixes[0]}"
    write = measured(lambda: container.write(weights, path), weights.n_bytes)

    def load() -> None:
        with container.open(path) as found:
            for tensor in found:
                found[tensor]

    read = measured(load, weights.n_bytes)
    size = path.stat().st_size
    path.unlink()
    print(f"{name}: {size:,} bytes, {write}, {read}", file=sys.stderr, flush=True)
    return {
        "container": name,
        "size, MB": size / 1e6,
        "of the tensors": size / weights.n_bytes,
        "write, MB/s": write[0],
        "read, MB/s": read[0],
        "write, MB per processor second": write[1],
        "read, MB per processor second": read[1],
    }


def main() -> None:
    """Measure each container in a temporary folder."""
    weights = model()
    with tempfile.TemporaryDirectory(prefix="tightship-") as folder:
        rows = [row(name, container, weights, Path(folder)) for name, container in EACH.items()]
    finish("weights", f"{len(weights)} tensors of {weights.n_bytes:,} bytes in each container", rows)


if __name__ == "__main__":
    main()
