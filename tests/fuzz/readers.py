"""The table of readers that are fuzzed. Adding one is one row: sound files to begin with, and what reads a file.

A reader may end in any `TightshipError`; any other exception, a crash, or no end within `LIMIT_S` is a failure.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.fuzz import media, warm_child
from tightship.weights import Tensor, Weights, container_of

if TYPE_CHECKING:
    from tightship.package.kinds import PrivateKey

__all__ = ["LIMIT_S", "READERS", "Reader"]

LIMIT_S = 20
"""Seconds for one input; seen on a quiet machine: below one."""


@dataclass(frozen=True)
class Reader:
    """`seeds` makes sound files in a folder, all with the suffix; `read` reads one as nobody's word for it."""

    name: str
    suffix: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]


def _weights() -> Weights:
    rng = np.random.default_rng(0)
    arrays = {
        "layer/kernel": rng.standard_normal((4, 5)).astype(np.float32),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(7),
        "flags": np.array([True, False, True]),
        "text": np.array(["a", "bé"]),
    }
    import ml_dtypes

    packed = Tensor.from_array(np.array([-8, 7, 1], ml_dtypes.int4))
    return Weights.of({**{name: Tensor.from_array(array) for name, array in arrays.items()}, "packed": packed})


def _container(suffix: str, *more: Callable[[], bytes]) -> Reader:
    container = container_of(suffix)

    def seeds(folder: Path) -> list[bytes]:
        path = folder / f"seed{suffix}"
        container.write(_weights(), path)
        return [path.read_bytes(), *(make() for make in more)]

    def read(path: Path) -> None:
        with container.open(path) as found:
            for name in found:
                found[name].array()

    return Reader(container.name + suffix * (suffix == ".npy"), suffix, seeds, read)


def _hdf5() -> Reader:
    """Each file has a process of its own, as for users, but one that is forked."""
    reader = _container(".h5")

    def read(path: Path) -> None:
        with warm_child.reused():
            reader.read(path)

    return replace(reader, read=read)


def _array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(12.0).reshape(3, 4))
    return file.getvalue()


def _old_pickle() -> bytes:
    return pickle.dumps({"a": np.arange(6.0), "deep": {"b": [np.float32(1), np.zeros((2, 2), ">i4")]}}, protocol=2)


def _state_dict() -> bytes:
    import torch

    file = io.BytesIO()
    torch.save({"state": torch.nn.Linear(3, 4).state_dict(), "half": torch.ones(2, dtype=torch.bfloat16)}, file)
    return file.getvalue()


def _single_array() -> Reader:
    reader = _container(".npy")
    return Reader("npy", ".npy", lambda folder: [_array()], reader.read)


def _onnx_seeds(folder: Path) -> list[bytes]:
    from tests import nets

    return [nets.conv_net().SerializeToString(), nets.lstm_net().SerializeToString()]


def _read_model(path: Path) -> None:
    from tightship import formats

    formats.read(formats.recognise(str(path)))


def _tflite_seeds(folder: Path) -> list[bytes]:
    import torch

    from tightship import formats
    from tightship.core.torch_module import from_torch

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    path = folder / "seed.tflite"
    formats.write(from_torch(net.eval(), (torch.zeros(1, 1, 4, 4),)), path)
    return [path.read_bytes()]


def _read_tflite(path: Path) -> None:
    """What judges a file before TensorFlow, which runs in a child process, sees it."""
    from tightship.formats.tflite_structure import outline

    outline(path.read_bytes()).repaired(path.read_bytes())


def _read_onnx_in_memory(path: Path) -> None:
    from tightship.formats.onnx_memory import read_memory

    read_memory(memoryview(bytearray(path.read_bytes())), {})


@cache
def _receiver() -> PrivateKey:
    from tightship.package.keys import new_key

    return new_key("x25519")


def _package_seeds(folder: Path) -> list[bytes]:
    from tightship.core.target import Target
    from tightship.package import Manifest, PackedArtifact
    from tightship.package.assembly import write_package

    name = "artifacts/onnx/model.onnx"
    manifest = Manifest("net", "1", (PackedArtifact("onnx", "onnx", name, Target(), 3),), {})
    for file, receivers in (("plain.ship", []), ("sealed.ship", [_receiver().public])):
        write_package(folder / file, manifest, {name: b"any", "evidence/plan.json": b"{}"}, receivers)
    return [(folder / "plain.ship").read_bytes(), (folder / "sealed.ship").read_bytes()]


def _read_package(path: Path) -> None:
    from tightship.package import open_package

    with open_package(path, _receiver()) as package:
        for name in package.names():
            package.check(name)


def _decoder_seeds(folder: Path) -> list[bytes]:
    """Configurations; the weights beside them are sound, and those of the first."""
    from tests.formats.checkpoints import CONFIG

    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": False}
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    more = {"rope_scaling": {**scaling, "original_max_position_embeddings": 8192}, "quantization_config": gptq}
    windows = {"model_type": "mistral", "sliding_window": 4, "head_dim": 16}
    return [json.dumps({**CONFIG, **changes}).encode() for changes in ({}, more, windows)]


def _read_decoder(path: Path) -> None:
    from tests.formats.checkpoints import CONFIG, save, tensors

    folder = path.parent / "checkpoint"
    if not folder.exists():
        save(folder, CONFIG, tensors(CONFIG))
    (folder / "config.json").write_bytes(path.read_bytes())
    _read_model(folder)


READERS = {
    reader.name: reader
    for reader in (
        _container(".safetensors"),
        _container(".json"),
        _container(".npz"),
        _single_array(),
        _container(".pkl", _old_pickle),
        _container(".pt", _state_dict),
        _hdf5(),
        Reader("onnx", ".onnx", _onnx_seeds, _read_model),
        Reader("onnx-in-memory", ".onnx", _onnx_seeds, _read_onnx_in_memory),
        Reader("package", ".ship", _package_seeds, _read_package),
        Reader("decoder", ".json", _decoder_seeds, _read_decoder),
        Reader("tflite", ".tflite", _tflite_seeds, _read_tflite),
        Reader("picture", ".png", media.picture_seeds, media.read_picture),
        Reader("sound", ".wav", media.sound_seeds, media.read_sound),
        Reader("processing", ".toml", media.declaration_seeds, media.read_declaration),
    )
}
