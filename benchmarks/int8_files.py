"""Static int8 of published small networks, beside the int8 files of their authors and TensorFlow's converter.

All are compared with the float network on inputs that calibrated nothing. To reach: at most half of either's error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _int8_dtln as dtln
from benchmarks._int8_inputs import DATA, SAMPLE_RATE, Inputs, machine_sounds, mfcc, photographs, spectrograms
from benchmarks._int8_peers import TfLiteNetwork, of_tensorflow, steps_apart
from benchmarks.report import BUILD, RESULTS
from tightship import bridges, engines, formats
from tightship.core.artifact import Artifact
from tightship.core.atomic import write_bytes
from tightship.core.dataset import Dataset
from tightship.core.model import Model
from tightship.core.passes import Pass
from tightship.core.target import Target
from tightship.formats.tflite import TfLite
from tightship.passes.equalize import Equalize
from tightship.passes.int8_static import Int8Static
from tightship.passes.simplify import Simplify
from tightship.passes.weight_only import WeightOnly

WANTED = 0.5
HALF_A_STEP = 0.51
"""Weights that were rounded to nearest are that far from those they were made of."""

Arrays = Mapping[str, np.ndarray]
TINY = "mlperf_tiny/"
MOBILENET = "tflite_mobilenet_v1_025/mobilenet_v1_0.25_224_"


@dataclass(frozen=True)
class Network:
    """A float file, the int8 file of its authors (empty: there is none), and what it is measured on."""

    name: str
    file: str
    int8_file: str
    inputs: Callable[[], Inputs]
    classifies: bool = True


NETWORKS = (
    Network(
        "image classification",
        TINY + "pretrainedResnet.tflite",
        TINY + "pretrainedResnet_quant.tflite",
        lambda: photographs(32, 32, 1, 0),
    ),
    Network(
        "visual wake words",
        TINY + "vww_96_float.tflite",
        TINY + "vww_96_int8.tflite",
        lambda: photographs(96, 96, 1 / 255, 0),
    ),
    Network("anomaly detection", TINY + "ad01_fp32.tflite", TINY + "ad01_int8.tflite", machine_sounds, False),
    Network("streaming wake word", TINY + "str_ww_ref_model.h5", TINY + "str_ww_ref_model.tflite", spectrograms),
    Network("keyword spotting", TINY + "kws_ref_model", TINY + "kws_ref_model.tflite", mfcc),
    Network(
        "MobileNetV1 0.25",
        MOBILENET + "1_default_1.tflite",
        MOBILENET + "quant.tflite",
        lambda: photographs(224, 224, 1 / 127.5, -1),
    ),
    Network(
        "Ultra-Face slim",
        "ultraface/version-slim-320_without_postprocessing.onnx",
        "",
        lambda: photographs(240, 320, 1 / 128, -127 / 128).channels_first(),
        False,
    ),
)


@dataclass(frozen=True)
class Setting:
    """Passes in their order, and whether the result is run without the saturation of kernels without VNNI.

    Weights of 7 bits do not saturate. Those of 8 bits do here, in ONNX Runtime and OpenVINO alike, so they are run in
    float between the roundings that the file asks for (`Target.exact`): what a processor with VNNI, AMX or ARM's
    8-bit dot products computes.
    """

    name: str
    passes: tuple[Pass, ...]
    exact: bool = False


@dataclass(frozen=True)
class Tried:
    """Error on the calibration items that choose, error on evaluation items, and share of these with the same class.

    Of networks that classify, the first is that of logits: of probabilities, the item that is least sure of its class
    would choose alone.
    """

    choosing: float
    error: float
    same: float = 1.0

    def __str__(self) -> str:
        return f"{self.choosing:.4g} on calibration items, {self.error:.4g}, same class {self.same:.3f}"


def _seven(name: str, **options: Any) -> Setting:
    return Setting(f"7 bits{name}", (Int8Static(**options),))


def _eight(name: str, **options: Any) -> Setting:
    return Setting(f"8 bits{name}", (Int8Static(weight_bits=8, **options),), exact=True)


def _equalized(setting: Setting) -> Setting:
    return replace(setting, name=f"{setting.name}, equalized", passes=(Equalize(), *setting.passes))


DEFAULT = _seven("")
_ACCURATE: dict[str, Any] = {"ranges": "mse", "rounding": "gptq", "correct_biases": True}
SETTINGS = (
    DEFAULT,
    _seven(", accurate", **_ACCURATE),
    _equalized(_seven(", accurate", **_ACCURATE)),
    _eight(""),
    _eight(", accurate", **_ACCURATE),
    _equalized(_eight(", accurate", **_ACCURATE)),
)
"""Accurate: ranges by least squares, codes by error feedback, corrected biases."""

WEIGHTS_ALONE = Setting("8 bits, weights alone", (WeightOnly(bits=8),), exact=True)
"""Activations stay float, as in the dynamic-range files of DTLN's authors and of TensorFlow between their products."""

N_CHOOSING = 32
"""Calibration items that choose among the settings, from all over."""


class OurNetwork:
    """A graph's file in an engine: takes and gives arrays in the order of the graph."""

    def __init__(self, path: Path, exact: bool = False) -> None:
        self.session = engines.open_session(path, Target(threads=1, exact=exact))

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = self.session.run(dict(zip([spec.name for spec in self.session.inputs], inputs, strict=True)))
        return [found[spec.name] for spec in self.session.outputs]


def main() -> None:
    """Measure all networks, or those whose names contain an argument."""
    from benchmarks.report import finish

    words = sys.argv[1:]
    networks = [network for network in NETWORKS if not words or any(word in network.name for word in words)]
    found = {network.name: measured(network) for network in networks}
    if not words or "dtln" in words:
        found["DTLN"] = measured_dtln()
    # Read as late as this: other networks may have been measured meanwhile.
    rows = (earlier("int8_files") if words else {}) | found
    order = [*(network.name for network in NETWORKS), "DTLN"]
    about = "error to the float network: ours, the authors' int8 file, TensorFlow's converter"
    finish("int8_files", about, [rows[name] for name in order if name in rows])


def earlier(benchmark: str) -> dict[str, dict[str, Any]]:
    """Rows by network of an earlier run, which stay until they are measured again."""
    path = RESULTS / f"{benchmark}.json"
    return {row["network"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}


def measured(network: Network) -> dict[str, Any]:
    """One row: errors as |difference| / |float output| over all evaluation inputs, and the ratios of ours to theirs."""
    folder = BUILD / "int8_files" / network.name.replace(" ", "-")
    model, path = float_graph(network.file, folder)
    inputs = network.inputs()
    calibration = {model.inputs[0].name: inputs.calibration}
    places = np.linspace(0, len(inputs.calibration) - 1, N_CHOOSING).astype(int)
    parts = (inputs.calibration[np.unique(places)], inputs.evaluation)

    def outputs(file: Path, exact: bool) -> list[np.ndarray]:
        return [_outputs(OurNetwork(file, exact), part) for part in parts]

    known = outputs(path, False)
    tried = {}
    even = not Equalize().apply(model, Dataset.from_arrays("calibration", "0", calibration)).changed
    for setting in (entry for entry in SETTINGS if not (even and isinstance(entry.passes[0], Equalize))):
        found = outputs(quantize(model, setting, [inputs.calibration], folder), setting.exact)
        choosing = logit_error(known[0], found[0]) if network.classifies else error(known[0], found[0])
        tried[setting] = Tried(choosing, error(known[1], found[1]), agreement(known[1], found[1]))
        print(f"{network.name}: {setting.name}: {tried[setting]}", flush=True)
    theirs = {"TensorFlow": cached(folder / "tensorflow.tflite", lambda: of_tensorflow(model, calibration))}
    pair = "no int8 file"
    if network.int8_file:
        theirs["authors"] = (DATA / network.int8_file).read_bytes()
        pair = _told(steps_apart(theirs["authors"], weights(model)))
    made = {name: _outputs(TfLiteNetwork(file), inputs.evaluation) for name, file in theirs.items()}
    ours = as_tflite(chosen(tried, exact=True), folder)
    our_error = error(known[1], _outputs(TfLiteNetwork(ours), inputs.evaluation))
    errors = {name: error(known[1], found) for name, found in made.items()}
    same = {name: agreement(known[1], found) for name, found in made.items() if network.classifies}
    as_file = {"8 bits as .tflite": our_error}
    as_file |= {f".tflite / {peer}": our_error / theirs_error for peer, theirs_error in errors.items()}
    return row(network.name, pair, tried, errors, same) | as_file | {"calibrated on": inputs.what}


def chosen(tried: Mapping[Setting, Tried], exact: bool) -> Setting:
    """The setting of 7 or of 8 bits (`exact`) that was best on calibration inputs."""
    return min((setting for setting in tried if setting.exact == exact), key=lambda setting: tried[setting].choosing)


def as_tflite(setting: Setting, folder: Path) -> bytes:
    """The quantized graph as a TFLite file with the same ranges and codes."""
    model = formats.read(Artifact(quantized_path(setting, folder), "onnx"))
    path = folder / "ours.tflite"
    TfLite().write(bridges.route(model, "keras"), path)
    return path.read_bytes()


def measured_dtln() -> dict[str, Any]:
    """The row of DTLN: distortion of the denoised speech against what the float networks make of it, amplitudes."""
    folder = BUILD / "int8_files" / "dtln"
    graphs = [float_graph(f"dtln/model_{index}.tflite", folder / str(index)) for index in (1, 2)]
    float_stages = [OurNetwork(path).run for _, path in graphs]
    samples = dtln.calibration_sound()
    seen = dtln.recorded(float_stages, samples, every=8)
    parts = (samples[: 4 * SAMPLE_RATE], dtln.noisy_speech())
    known = [dtln.denoised(float_stages, part) for part in parts]
    tried = {}
    for setting in (*SETTINGS, WEIGHTS_ALONE):
        files = [
            quantize(model, setting, arrays, path.parent) for (model, path), arrays in zip(graphs, seen, strict=True)
        ]
        found = [dtln.denoised([OurNetwork(file, setting.exact).run for file in files], part) for part in parts]
        tried[setting] = Tried(*(dtln.distortion(*pair) for pair in zip(known, found, strict=True)))
        print(f"DTLN: {setting.name}: {tried[setting]}", flush=True)
    authors = [(DATA / "dtln" / f"model_quant_{index}.tflite").read_bytes() for index in (1, 2)]
    tensorflow = [
        cached(folder / f"tensorflow-{index}.tflite", partial(of_tensorflow, model, None))
        for index, (model, _) in enumerate(graphs, 1)
    ]
    errors = {
        name: dtln.distortion(known[1], dtln.denoised([TfLiteNetwork(file).run for file in files], parts[1]))
        for name, files in (("authors", authors), ("TensorFlow", tensorflow))
    }
    pair = max(steps_apart(file, weights(model)) for file, (model, _) in zip(authors, graphs, strict=True))
    return row("DTLN", _told(pair), tried, errors, {}) | {"calibrated on": "other recordings"}


def row(
    name: str, pair: str, tried: Mapping[Setting, Tried], errors: Mapping[str, float], same: Mapping[str, float]
) -> dict[str, Any]:
    """What is written down: for 7 and for 8 bits the setting that was best on calibration inputs."""
    best = {bits: chosen(tried, exact) for bits, exact in ((7, False), (8, True))}
    found: dict[str, Any] = {"network": name, "authors' weights": pair, "defaults": tried[DEFAULT].error}
    for bits, setting in best.items():
        found |= {f"{bits} bits": tried[setting].error, f"{bits} bits, setting": setting.name}
    for peer in ("authors", "TensorFlow"):
        error_of_peer = errors.get(peer)
        found[peer] = "" if error_of_peer is None else error_of_peer
        for bits, setting in best.items():
            ratio = tried[setting].error / error_of_peer if error_of_peer else ""
            found[f"{bits} bits / {peer}"] = ratio
    reached = [bits for bits in best if all(found[f"{bits} bits / {peer}"] <= WANTED for peer in errors)]
    found["reached with"] = ", ".join(f"{bits} bits" for bits in reached) or "none"
    kept = {f"{bits} bits": tried[setting].same for bits, setting in best.items()} | dict(same)
    found["same class"] = ", ".join(f"{who} {share:.3f}" for who, share in kept.items()) if same else ""
    return found


def float_graph(file: str, folder: Path) -> tuple[Model, Path]:
    """The simplified graph of a float file, converted once."""
    path = folder / "float.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = bridges.route(formats.read(formats.recognise(str(DATA / file))), "graph")
        formats.write(Simplify().apply(model).model, path)
    return formats.read(Artifact(path, "onnx")), path


def quantize(model: Model, setting: Setting, arrays: Sequence[np.ndarray], folder: Path) -> Path:
    """Apply the setting with these calibration inputs, one array per input; return the file it is written to."""
    named = {spec.name: array for spec, array in zip(model.inputs, arrays, strict=True)}
    data = Dataset.from_arrays("calibration", "0", named)
    for step in setting.passes:
        model = step.apply(model, data).model
    path = quantized_path(setting, folder)
    formats.write(model, path)
    return path


def quantized_path(setting: Setting, folder: Path) -> Path:
    """Where `quantize` writes."""
    return folder / f"{setting.name.replace(' ', '-')}.onnx"


def cached(path: Path, make: Callable[[], bytes]) -> bytes:
    """The bytes of a file that is made once."""
    if not path.exists():
        write_bytes(path, make())
    return path.read_bytes()


def error(reference: np.ndarray, found: np.ndarray) -> float:
    """Relative error over all items and outputs, L2."""
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def logit_error(reference: np.ndarray, found: np.ndarray) -> float:
    """The same of logits, which are the logarithms of probabilities but for one number per item."""
    logs = [np.log(np.maximum(array, np.finfo(np.float32).tiny)) for array in (reference, found)]
    return error(*(array - array.mean(axis=1, keepdims=True) for array in logs))


def agreement(reference: np.ndarray, found: np.ndarray) -> float:
    """Share of the items whose largest output is the same."""
    return float((reference.argmax(axis=1) == found.argmax(axis=1)).mean())


def weights(model: Model) -> list[np.ndarray]:
    """All float constants of a graph."""
    constants = [value.const_value for value in model.graph.graph.initializers.values()]
    return [tensor.numpy() for tensor in constants if tensor is not None and tensor.dtype.name == "FLOAT"]


def _told(steps: float) -> str:
    return "same weights" if steps <= HALF_A_STEP else f"not the same weights ({steps:.3g} steps apart)"


def _outputs(network: OurNetwork | TfLiteNetwork, items: np.ndarray) -> np.ndarray:
    """All outputs of each item in one row, by shape: files differ in their order."""
    rows = [sorted(network.run([items[index : index + 1]]), key=np.shape) for index in range(len(items))]
    return np.stack([np.concatenate([array.ravel() for array in outputs]) for outputs in rows])


if __name__ == "__main__":
    main()
