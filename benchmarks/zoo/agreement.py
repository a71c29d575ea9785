"""Do the files of one network agree, as their makers published them in several formats?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.zoo.cells import DATA, DEFINITIONS
from tightship import engines, formats
from tightship.api import loading
from tightship.core.feeds import feeds
from tightship.core.session import Arrays, Session
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.errors import UnknownFormat
from tightship.formats import FORMATS
from tightship.measure.generate import generate

__all__ = ["agreements", "blocks", "composed"]

N_ITEMS = 4
N_BLOCKS = 40
"""Blocks of 512 samples that DTLN hears one after the other: its state has to be carried rightly."""

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "Ultra-Face RFB-320": (
        "ultraface/version-RFB-320.pth",
        "ultraface/version-RFB-320_without_postprocessing.onnx",
        "ultraface/version-RFB-320_without_postprocessing.tflite",
    ),
    "Ultra-Face slim-320": (
        "ultraface/version-slim-320.pth",
        "ultraface/version-slim-320_without_postprocessing.onnx",
        "ultraface/version-slim-320_without_postprocessing.tflite",
    ),
    "FastestDet": ("fastestdet/weight_AP05_0.253207_280-epoch.pth", "fastestdet/FastestDet.onnx"),
    "DTLN, first half": ("dtln/model_1.onnx", "dtln/model_1.tflite"),
    "DTLN, second half": ("dtln/model_2.onnx", "dtln/model_2.tflite"),
}


def agreements() -> Iterator[dict[str, Any]]:
    """One row for each file of a network but its first; a format that cannot be read here is left out."""
    for network, (first, *others) in FAMILIES.items():
        for other in others:
            if (DATA / first).exists() and (DATA / other).exists() and _readable(first) and _readable(other):
                yield {"network": network, "file": f"{other} against {first}", **_difference(first, other)}
    halves, whole = ("dtln/model_1.onnx", "dtln/model_2.onnx"), "dtln/dtln_saved_model"
    if (DATA / whole).exists() and _readable(whole):
        yield {"network": "DTLN, whole", "file": f"{whole} against both halves in ONNX", **_whole(halves, whole)}


def _read(name: str) -> Any:
    if name in DEFINITIONS:
        return loading.read(DEFINITIONS[name], DATA / name)
    return loading.read(str(DATA / name))


def _readable(name: str) -> bool:
    try:
        return FORMATS[formats.recognise(str(DATA / name)).format].readable or name in DEFINITIONS
    except UnknownFormat:
        return name in DEFINITIONS


def _difference(first: str, other: str) -> dict[str, float]:
    source, candidate = _read(first), _read(other)
    data = generate(source.model, N_ITEMS, seed=0)
    with source.open() as reference, candidate.open() as session:
        pairs = [
            (reference.run(feed.arrays), session.run(_fitted(feed.arrays, session.inputs)))
            for feed in feeds(data, reference.inputs, 1)
        ]
    return _largest((want[name], got) for want, found in pairs for name, got in _paired(want, found))


def _largest(pairs: Any) -> dict[str, float]:
    differences = [(float(np.abs(want - got).max()), float(np.abs(want).max())) for want, got in pairs]
    return {"max_abs": max(one for one, _ in differences), "largest": max(two for _, two in differences)}


def _fitted(arrays: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> Arrays:
    """Arrays under the names and in the layout that the other file wants them."""
    names = {spec.name for spec in specs} == set(arrays)
    values = [arrays[spec.name] for spec in specs] if names else list(arrays.values())
    return {spec.name: _laid_out(array, spec) for spec, array in zip(specs, values, strict=True)}


def _laid_out(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if spec.accepts(array.shape):
        return array
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def _paired(want: Arrays, found: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Outputs by name where the names are the same, else by shape, with channels first or last."""
    if set(want) == set(found):
        yield from found.items()
        return
    left = dict(found)
    for name, array in want.items():
        match = next(other for other, value in left.items() if array.shape in _layouts(value))
        value = left.pop(match)
        yield name, value if value.shape == array.shape else np.moveaxis(value, -1, 1)


def _layouts(array: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return array.shape, (array.shape[0], array.shape[-1], *array.shape[1:-1])


def _whole(halves: Sequence[str], whole: str) -> dict[str, float]:
    """The whole network, eight states beside the sound, against its two halves with one each."""
    sound = blocks(DATA / "dtln" / "dtln_eval.npz")
    with ExitStack() as stack:
        sessions = [stack.enter_context(_read(name).open()) for name in halves]
        sessions.append(stack.enter_context(engines.open_session(DATA / whole, Target("tensorflow"))))
        want = list(map(composed(sessions[0], sessions[1]), sound))
        got = list(map(looped(sessions[2]), sound))
    return _largest(zip(want, got, strict=True))


def looped(whole: Session) -> Callable[[np.ndarray], np.ndarray]:
    """A network whose states are inputs and outputs called `.._next`, run on one block after the other."""
    sound, *states = whole.inputs
    kept = {spec.name: np.zeros(spec.resolve(1), np.float32) for spec in states}

    def run(block: np.ndarray) -> np.ndarray:
        found = whole.run({sound.name: block, **kept})
        kept.update({name: found[f"{name}_next"] for name in kept})
        return found[whole.outputs[0].name].reshape(1, 512)

    return run


def blocks(path: Path) -> list[np.ndarray]:
    """Noisy speech in blocks of 512 samples, 128 apart."""
    with np.load(path) as archive:
        noisy = next(array for name, array in archive.items() if "noisy" in name)
    sound = noisy[16000 : 16000 + 128 * (N_BLOCKS - 1) + 512].astype(np.float32) / 32768
    return [sound[128 * number : 128 * number + 512][None] for number in range(N_BLOCKS)]


def composed(first: Session, second: Session) -> Callable[[np.ndarray], np.ndarray]:
    """DTLN from its halves: a mask on the spectrum, then a mask on learned features, each with its LSTM's state."""
    states = [np.zeros((1, 2, 128, 2), np.float32) for _ in range(2)]

    def run(block: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(block)
        mask, states[0] = first.run(_feed(first, np.abs(spectrum)[None], states[0])).values()
        masked = np.fft.irfft(spectrum * mask[0])
        sound, states[1] = second.run(_feed(second, masked[None], states[1])).values()
        block_out: np.ndarray = sound[0]
        return block_out

    return run


def _feed(session: Session, values: np.ndarray, state: np.ndarray) -> Arrays:
    return {session.inputs[0].name: values.astype(np.float32), session.inputs[1].name: state}
