"""What `optimize` chooses against the peers' recipes, all timed interleaved in one run: `make bench`.

For each network, under cosine >= 0.99 on generated inputs: tightship's choice; ONNX Runtime fp32, quantize_static and
quantize_dynamic; OpenVINO float32 (and bfloat16 where the processor has it); NNCF int8 in OpenVINO. To reach: a ratio
of at most 1 (within its interval) to the fastest peer that keeps the cosine.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tightship as ts
from benchmarks.report import BUILD, finish
from tightship import bridges, engines, formats
from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.errors import TightshipError
from tightship.measure.generate import generate
from tightship.measure.latency import time_interleaved

NETWORKS = ("lstm", "resnet50", "mobilenet_v3_large", "bert_base")
N_CALIBRATION = 32
N_QUALITY = 32
ALLOWED_DROP = 0.01


@dataclass(frozen=True)
class Entry:
    """One way to run a network: who made it, the file and the target."""

    name: str
    path: Path
    target: Target


def exported(name: str) -> Path:
    """The network as ONNX, exported once for each edition of its definition."""
    edition = hashlib.sha256(Path("examples/networks.py").read_bytes()).hexdigest()[:8]
    path = BUILD / "networks" / edition / name / "model.onnx"
    if not path.exists():
        module = formats.read(formats.recognise(f"examples.networks:{name}"))
        formats.write(bridges.route(module, "graph"), path)
    return path


def peers(name: str, path: Path, data: Dataset) -> Iterator[Entry]:
    """Each peer's model, made with its defaults (per-channel weights where it has the choice)."""
    yield Entry("onnxruntime fp32", path, Target())
    yield Entry("openvino f32", path, Target("openvino"))
    if "bf16" in engines.ENGINES["openvino"].precisions():
        yield Entry("openvino bf16", path, Target("openvino", "bf16"))
    folder = path.parent / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, tuple[Callable[[Path, Path, Dataset], None], Target]] = {
        "ort quantize_static": (quantize_static, Target()),
        "ort quantize_dynamic": (quantize_dynamic, Target()),
        "nncf int8": (nncf_int8, Target("openvino")),
    }
    for label, (make, target) in makers.items():
        made = folder / f"{label.replace(' ', '-')}.{'xml' if label == 'nncf int8' else 'onnx'}"
        try:
            if not made.exists():
                make(path, made, data)
            yield Entry(label, made, target)
        except Exception as error:  # a peer that fails on a network is a result, not an end
            print(f"{name}: {label} failed: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)


def quantize_static(source: Path, made: Path, data: Dataset) -> None:
    """ONNX Runtime's static quantizer, QDQ, per channel."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(_feeds(data, source))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    quantize_static(source, made, Reader(), per_channel=True)


def quantize_dynamic(source: Path, made: Path, data: Dataset) -> None:
    """ONNX Runtime's dynamic quantizer; stale shapes are cleared first, without which it fails on torch's exports."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]
    quantize_dynamic(model, made, per_channel=True)


def nncf_int8(source: Path, made: Path, data: Dataset) -> None:
    """NNCF's post-training quantization of the OpenVINO model, with its transformer setting for BERT."""
    import nncf
    import openvino as ov

    model = ov.Core().read_model(source)
    kind = nncf.ModelType.TRANSFORMER if "bert" in str(source) else None
    calibration = nncf.Dataset(_feeds(data, source))
    ov.save_model(
        nncf.quantize(model, calibration, subset_size=N_CALIBRATION, model_type=kind), made, compress_to_fp16=False
    )


def ours(name: str, path: Path) -> tuple[Entry, dict[str, Any]]:
    """What `optimize` chooses, with the seconds and peak memory of the whole run."""
    started, used = time.perf_counter(), _cpu_seconds()
    options = ts.Options(metric="cosine", calibration=N_CALIBRATION, work=BUILD / "work" / name, resume=False)
    plan = ts.optimize(path, None, BUILD / "ours" / name, ts.Budget(max_drop=ALLOWED_DROP), options)
    cost = {
        "optimize s": round(time.perf_counter() - started, 1),
        "optimize cpu s": round(_cpu_seconds() - used, 1),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    return Entry(f"tightship: {plan.chosen}", Path(str(plan.output)), plan.best.target), cost


def measure(name: str) -> dict[str, Any]:
    """Compare on one network; run in a process of its own, so that peak memory is its own."""
    path = exported(name)
    chosen, cost = ours(name, path)
    data = generate(formats.read(formats.recognise(str(path))), N_CALIBRATION + N_QUALITY, seed=7)
    calibration, quality = data.split(N_CALIBRATION, seed=7)
    entries = [chosen, *peers(name, path, calibration)]
    with ExitStack() as stack:
        sessions = [stack.enter_context(engines.open_session(entry.path, entry.target)) for entry in entries]
        cosines = [_cosine(sessions[1], session, quality) for session in sessions]
        timings = time_interleaved(sessions, next(iter(_feeds(quality, path))), seconds=4.0)
        medians = [timings.latency(index).median_ms for index in range(len(entries))]
        for entry, median, cosine in zip(entries, medians, cosines, strict=True):
            print(f"{name:20} {entry.name:60} {median:9.3f} ms  cosine {cosine:.4f}", flush=True)
        rivals = [index for index in range(1, len(entries)) if cosines[index] >= 1 - ALLOWED_DROP]
        best = min(rivals, key=lambda index: medians[index])
        ratio = timings.ratio(0, best)
    return {
        "network": name,
        "chosen": chosen.name.removeprefix("tightship: "),
        "ms": medians[0],
        "cosine": cosines[0],
        "best peer": entries[best].name,
        "peer ms": medians[best],
        "ratio": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "all peers ms": {entry.name: round(ms, 3) for entry, ms in zip(entries[1:], medians[1:], strict=True)},
        **cost,
    }


def _cosine(reference: Session, session: Session, data: Dataset) -> float:
    similar = []
    for feed in feeds(data, reference.inputs, 1):
        want, got = _flat(reference.run(feed.arrays)), _flat(session.run(feed.arrays))
        similar.append(float(want @ got / (np.linalg.norm(want) * np.linalg.norm(got) + 1e-30)))
    return float(np.mean(similar))


def _flat(outputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel().astype(np.float64) for array in outputs.values() if array.dtype.kind == "f"])


def _feeds(data: Dataset, path: Path) -> list[dict[str, np.ndarray]]:
    model = formats.read(formats.recognise(str(path)))
    return [feed.arrays for feed in feeds(data, model.inputs, 1)]


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure each network in its own process; what is done by then is written after each."""
    import multiprocessing

    context, rows = multiprocessing.get_context("spawn"), []
    for name in NETWORKS:
        with context.Pool(1) as pool:
            try:
                rows.append(pool.apply(measure, (name,)))
            except TightshipError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
        finish("choice", "what optimize chooses against the fastest peer that keeps cosine >= 0.99 (batch 1)", rows)


if __name__ == "__main__":
    main()
