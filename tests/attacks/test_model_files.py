"""Hostile model files through the command line: TFLite, Keras, and what is left of ONNX."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tests import nets
from tests.attacks.mounting import Attack, check_refused
from tightship.cli import main
from tightship.errors import ArtifactNotFound, InvalidModel, UnsupportedError

h5py = pytest.importorskip("h5py")

DAMAGED, STRANGE = InvalidModel.exit_code, UnsupportedError.exit_code


@pytest.fixture(autouse=True, scope="module")
def libraries_are_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Importing takes longer than refusing; Keras' own is part of no attack."""
    folder = tmp_path_factory.mktemp("good")
    nets.save(nets.conv_net(), folder)
    assert main(["inspect", str(folder / "model.onnx")]) == 0
    pytest.importorskip("keras")


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


# -- ONNX: external data that test_onnx_files leaves out ----------------------------------------------------------


def external(folder: Path, location: str = "w.data", **entries: str) -> Path:
    """A model whose weight of 64 bytes lies outside."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 4] x) => (float[1, 4] y) { y = MatMul(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "w.data").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    return written(folder, "m.onnx", model.SerializeToString())


ONNX: dict[str, tuple[Attack, int, str]] = {
    "dots that end outside": (lambda folder: external(folder, "./././../secret"), DAMAGED, "relative path below"),
    "dots to what is not there": (lambda folder: external(folder, "./././lost"), ArtifactNotFound.exit_code, "missing"),
    "an unknown key": (lambda folder: external(folder, surprise="1"), DAMAGED, "'surprise'"),
    "a wrong checksum": (lambda folder: external(folder, checksum="0" * 40), DAMAGED, "checksum"),
    "a checksum that is none": (lambda folder: external(folder, checksum="x"), DAMAGED, "checksum"),
}


@pytest.mark.parametrize("attack", ONNX)
def test_hostile_external_data_is_refused(attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, exit_code, says = ONNX[attack]
    path = make(tmp_path)
    check_refused(["inspect", str(path)], path, exit_code, says, capsys)


def test_a_right_checksum_and_dots_that_stay_inside_are_read(tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha1(np.eye(4, dtype=np.float32).tobytes()).hexdigest()
    assert main(["inspect", str(external(tmp_path, "././w.data", checksum=digest))]) == 0


def test_a_link_inside_the_folder_is_read(tmp_path: Path) -> None:
    path = external(tmp_path, "link.data")
    (tmp_path / "link.data").symlink_to("w.data")
    assert main(["inspect", str(path)]) == 0


# -- TFLite -------------------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(0).bytes(4096)

TFLITE: dict[str, bytes] = {
    "empty": b"",
    "random": RANDOM,
    "random after the mark": b"\x1c\0\0\0TFL3" + RANDOM,
    "zeros": bytes(4096),
    "a root outside": b"\xff\xff\xff\x7fTFL3" + bytes(64),
    "a root in itself": b"\0\0\0\0TFL3" + bytes(64),
}


@pytest.mark.parametrize("attack", TFLITE)
def test_a_hostile_tflite_file_is_refused(attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "m.tflite", TFLITE[attack])
    check_refused(["inspect", str(path)], path, DAMAGED, "m.tflite", capsys)


# -- Keras --------------------------------------------------------------------------------------------------------

LAMBDA = {
    "module": "keras",
    "class_name": "Sequential",
    "config": {
        "name": "s",
        "layers": [
            {"module": "keras.layers", "class_name": "InputLayer", "config": {"batch_shape": [None, 2], "name": "i"}},
            {
                "module": "keras.layers",
                "class_name": "Lambda",
                "config": {"name": "planted", "function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}},
            },
        ],
    },
}


def weights_file(folder: Path) -> bytes:
    with h5py.File(folder / "w", "w") as file:
        file["layers/dense/vars/0"] = np.ones(2)
    content = (folder / "w").read_bytes()
    (folder / "w").unlink()
    return content


def keras_archive(folder: Path, config: object = LAMBDA, weights: bytes | None = None) -> Path:
    with zipfile.ZipFile(folder / "m.keras", "w") as target:
        target.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        target.writestr("metadata.json", json.dumps({"keras_version": "3.10.0"}))
        target.writestr("model.weights.h5", weights_file(folder) if weights is None else weights)
    return folder / "m.keras"


def keras_h5(folder: Path, config: object = LAMBDA) -> Path:
    with h5py.File(folder / "m.h5", "w") as file:
        file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
        file.attrs["keras_version"] = "2.15.0"
        file["model_weights/dense/kernel:0"] = np.ones(2)
    return folder / "m.h5"


def with_link(folder: Path) -> Path:
    path = keras_h5(folder)
    with h5py.File(path, "a") as file:
        file["model_weights/more"] = h5py.ExternalLink("/etc/passwd", "/")
    return path


def with_storage(folder: Path) -> Path:
    path = keras_h5(folder)
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/more", (64,), "u1", external=[("/etc/passwd", 0, 64)])
    return path


KERAS: dict[str, tuple[Attack, int, str]] = {
    "a Lambda in .keras": (keras_archive, STRANGE, "'planted' is a Lambda"),
    "a Lambda in .h5": (keras_h5, STRANGE, "'planted' is a Lambda"),
    "an external link": (with_link, DAMAGED, "a link to /etc/passwd"),
    "external storage": (with_storage, DAMAGED, "keeps its numbers in other files"),
    "a description of 10,000 lists": (lambda folder: keras_archive(folder, "[" * 10_000), DAMAGED, "no JSON"),
    "weights cut short": (
        lambda folder: keras_archive(folder, {**LAMBDA, "config": {"layers": []}}, b"\x89HDF\r\n\x1a\n" + bytes(40)),
        DAMAGED,
        "m.keras",
    ),
    "a truncated .h5": (lambda folder: written(folder, "m.h5", keras_h5(folder).read_bytes()[:-900]), DAMAGED, "m.h5"),
}


@pytest.mark.parametrize("attack", KERAS)
def test_a_hostile_keras_file_is_refused(attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, exit_code, says = KERAS[attack]
    path = make(tmp_path)
    check_refused(["inspect", str(path)], path, exit_code, says, capsys)
