"""8-bit and 4-bit weights under 8-bit activations: `equalize + smooth + int8-static` against the peers' quantizers.

Two networks trained on real images (`_image_networks.py`); all calibrate on the same 128 training images. What is told
is measured on 1,000 other images: the power of the logits over that of their error, the drop of accuracy and its upper
bound, and the latency over that of the float model in the same engine, all sessions of an engine timed in turns.
To reach: 1.5 dB above the best peer at equal or better speed, and a vision transformer never slower than float.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._image_networks import NETWORKS, Images, images, trained
from benchmarks.report import finish
from tightship import engines, formats
from tightship.core import processor
from tightship.core.artifact import Artifact
from tightship.core.dataset import Dataset
from tightship.core.passes import Pass
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.measure.drop import Discordance
from tightship.measure.latency import Timings, time_interleaved
from tightship.passes.equalize import Equalize
from tightship.passes.int8_static import Int8Static
from tightship.passes.quantize import fast_weight_bits
from tightship.passes.smooth import Smooth

N_CALIBRATION = 128
N_HELD = 1000
BATCH = 64
SECONDS = 0.4
CONFIDENCE = 0.95

Maker = Callable[[Path, Path, np.ndarray], None]


@dataclass(frozen=True)
class Entry:
    """Who made it, the file and the engine it is meant for."""

    name: str
    path: Path
    engine: str


def ours(*passes: Pass) -> Maker:
    """A recipe of tightship."""

    def make(source: Path, made: Path, x: np.ndarray) -> None:
        model = formats.read(Artifact(source, "onnx"))
        data = Dataset.from_arrays("calibration", "0", {model.inputs[0].name: x})
        for entry in passes:
            model = entry.apply(model, data).model
        formats.write(model, made)

    return make


def quantize_static(method: str, **options: Any) -> Maker:
    """ONNX Runtime's quantizer, QDQ, per channel; it has prepared the model as its guide asks for."""

    def make(source: Path, made: Path, x: np.ndarray) -> None:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        name = onnx.load(source).graph.input[0].name
        feeds = iter([{name: x[start : start + 1]} for start in range(len(x))])

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(feeds, None)

        prepared = made.with_suffix(".prepared.onnx")
        quant_pre_process(source, prepared)
        calibrate = getattr(quantization.CalibrationMethod, method)
        quantization.quantize_static(prepared, made, Reader(), per_channel=True, calibrate_method=calibrate, **options)

    return make


def nncf(onnx_model: bool, overflow_fix: str | None = None) -> Maker:
    """NNCF's post-training quantization, of the ONNX model or of OpenVINO's; transformers as such."""

    def make(source: Path, made: Path, x: np.ndarray) -> None:
        import nncf as library
        import onnx
        import openvino

        name = onnx.load(source).graph.input[0].name
        data = library.Dataset([{name: x[start : start + 1]} for start in range(len(x))])
        kind = library.ModelType.TRANSFORMER if "vit" in source.name else None
        model = onnx.load(source) if onnx_model else openvino.Core().read_model(source)
        fix = None if overflow_fix is None else library.OverflowFix(overflow_fix)
        advanced = library.AdvancedQuantizationParameters(overflow_fix=fix)
        quantized = library.quantize(model, data, subset_size=len(x), model_type=kind, advanced_parameters=advanced)
        if onnx_model:
            onnx.save(quantized, made)
        else:
            openvino.save_model(quantized, made.with_suffix(".xml"), compress_to_fp16=False)

    return make


def makers() -> Iterator[tuple[str, str, Maker]]:
    """Name, engine and maker of each candidate."""
    bits = fast_weight_bits(processor.features())
    best = {"ranges": "mse", "rounding": "gptq", "correct_biases": True}
    before = (Equalize(), Smooth())
    yield "ours W8A8", "onnxruntime", ours(*before, Int8Static(weight_bits=bits, **best))
    yield "ours W8A8", "openvino", ours(*before, Int8Static(weight_bits=bits, **best))
    yield "ours W4A8", "onnxruntime", ours(*before, Int8Static(weight_bits=4, **best))
    yield "ours W4A8", "openvino", ours(*before, Int8Static(weight_bits=4, **best))
    for method in ("MinMax", "Entropy", "Percentile"):
        yield f"quantize_static {method}", "onnxruntime", quantize_static(method, reduce_range=bits == 7)
    products = ["Conv", "MatMul", "Gemm"]
    yield (
        "quantize_static MinMax, products only",
        "onnxruntime",
        quantize_static("MinMax", reduce_range=bits == 7, op_types_to_quantize=products),
    )
    yield "nncf of ONNX", "onnxruntime", nncf(onnx_model=True)
    yield "nncf", "openvino", nncf(onnx_model=False)
    if bits == 7:
        yield "nncf, 7-bit weights", "openvino", nncf(onnx_model=False, overflow_fix="enable")


def entries(source: Path, calibration: np.ndarray) -> Iterator[Entry]:
    """Make every candidate that is not there yet; one that fails is told and left out."""
    for name, engine, make in makers():
        label = f"{name} {engine}".replace(" ", "-").replace(",", "")
        made = source.with_name(f"{source.stem}-{label}.onnx")
        wanted = made.with_suffix(".xml") if name.startswith("nncf") and engine == "openvino" else made
        try:
            if not wanted.exists():
                make(source, made, calibration)
            yield Entry(name, wanted, engine)
        except Exception as error:  # a peer that fails on a network is a result, not an end
            print(f"{source.stem}: {name} failed: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)


def outputs(session: Session, x: np.ndarray) -> np.ndarray:
    """Logits of all images."""
    name = session.inputs[0].name
    parts = [x[start : start + BATCH] for start in range(0, len(x), BATCH)]
    return np.concatenate([next(iter(session.run({name: part}).values())) for part in parts])


def rows(network: str, calibration: np.ndarray, held: Images) -> Iterator[dict[str, Any]]:
    """Measure all candidates of a network, engine by engine."""
    source = trained(network)
    found = list(entries(source, calibration))
    wanted = None
    for engine in dict.fromkeys(entry.engine for entry in found):
        here = [Entry("float", source, engine), *(entry for entry in found if entry.engine == engine)]
        with ExitStack() as stack:
            target = Target(engine, threads=1)
            sessions = [stack.enter_context(engines.open_session(entry.path, target)) for entry in here]
            logits = [outputs(session, held.x) for session in sessions]
            wanted = logits[0] if wanted is None else wanted
            timings = timed(sessions, held.x[:1])
        for index, entry in enumerate(here):
            row = {"network": network, "engine": engine, "made by": entry.name}
            row |= told(logits[index], wanted, held.y, timings, index)
            print(row, flush=True)
            yield row


def timed(sessions: Sequence[Session], image: np.ndarray) -> Timings:
    """One image at a time, one thread."""
    names = {session.inputs[0].name for session in sessions}
    return time_interleaved(list(sessions), dict.fromkeys(names, image), seconds=SECONDS)


def told(found: np.ndarray, wanted: np.ndarray, labels: np.ndarray, timings: Timings, index: int) -> dict[str, Any]:
    """The numbers of one candidate."""
    noise = float(np.square(found.astype(np.float64) - wanted).sum())
    right, was_right = found.argmax(1) == labels, wanted.argmax(1) == labels
    drop = Discordance(len(labels), 0.01, int((was_right & ~right).sum()), int((right & ~was_right).sum()))
    ratio = timings.ratio(index)
    signal = float(np.square(wanted.astype(np.float64)).sum())
    return {
        "sqnr dB": 10 * math.log10(signal / noise) if noise else "",
        "accuracy": float(right.mean()),
        "drop": drop.drop,
        "drop at most": drop.upper(1 - CONFIDENCE),
        "ms": timings.latency(index).median_ms,
        "time over float": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
    }


def main() -> None:
    """Both networks."""
    kept, held = images()
    held = Images(held.x[:N_HELD], held.y[:N_HELD])
    calibration = kept.x[:N_CALIBRATION]
    table = [row for network in NETWORKS for row in rows(network, calibration, held)]
    about = "8-bit activations: logits' signal to noise on held-out images, accuracy drop, one-thread latency"
    finish("w8a8", about, table)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
