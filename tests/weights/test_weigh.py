"""`tightship weights`: any model or container in, the same tensors out, and the proof of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from tests import nets
from tightship import api
from tightship.cli import main
from tightship.errors import UsageError
from tightship.weights import container_of, digest


def read(path: Path) -> dict[str, np.ndarray]:
    with container_of(path).open(path) as found:
        return {name: found[name].array() for name in found}


def test_a_chain_through_every_container_ends_with_the_digest_it_began_with(tmp_path: Path) -> None:
    nets.save(nets.conv_net(), tmp_path)
    source, digests = tmp_path / "model.onnx", set()
    for suffix in (".safetensors", ".json", ".h5", ".npz", ".pkl", ".pt", ".safetensors"):
        found = api.weights(source, tmp_path / f"next{suffix}")
        assert (found.n_tensors, found.file_bytes) == (6, (tmp_path / f"next{suffix}").stat().st_size)
        digests.add(found.digest)
        source = tmp_path / f"next{suffix}"
    assert len(digests) == 1
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in nets.conv_net().graph.initializer}
    assert all(np.array_equal(array, weights[name]) for name, array in read(source).items())


def test_a_graph_gives_constants_and_tensors_of_every_type(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 11, opset_import: ["" : 23]> g (float[1] x) => (float[1] y) '
        "{ c = Constant<value = float[1] {2.5}>()  y = Mul(x, c) }"
    )
    kinds = {
        "packed": helper.make_tensor("packed", onnx.TensorProto.INT4, [3], [-8, 7, 1]),
        "text": helper.make_tensor("text", onnx.TensorProto.STRING, [2], [b"a\0b", b""]),
        "eight": helper.make_tensor("eight", onnx.TensorProto.FLOAT8E4M3FN, [2], [1.0, 2.0]),
        "complex": numpy_helper.from_array(np.array(1 + 2j, np.complex64), "complex"),
        "empty": numpy_helper.from_array(np.zeros((0, 3), np.float16), "empty"),
    }
    model.graph.initializer.extend(kinds.values())
    onnx.save(model, tmp_path / "m.onnx")
    found = api.weights(tmp_path / "m.onnx", tmp_path / "w.json")
    arrays = read(tmp_path / "w.json")
    assert found.n_tensors == 6
    assert arrays["packed"].tolist() == [-8, 7, 1] and arrays["packed"].dtype.name == "int4"
    assert arrays["text"].tolist() == [b"a\0b", b""]
    assert arrays["eight"].tolist() == [1, 2] and arrays["eight"].dtype.name == "float8_e4m3fn"
    assert arrays["complex"] == 1 + 2j and arrays["empty"].shape == (0, 3)
    assert arrays["c"].tolist() == [2.5]


def test_a_module_gives_its_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("made_here.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)), torch.zeros(2, 3)\n"
    )
    api.weights("made_here:net", "w.npz")
    torch.manual_seed(0)
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
    arrays = read(Path("w.npz"))
    assert arrays.keys() == state.keys()
    assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in state.items())


def test_a_keras_model_gives_its_weights_by_path(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="last")])
    model.save(tmp_path / "m.keras")
    api.weights(tmp_path / "m.keras", tmp_path / "w.safetensors")
    arrays = read(tmp_path / "w.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == {"last/kernel": (3, 2), "last/bias": (2,)}
    assert np.array_equal(arrays["last/kernel"], np.asarray(model.layers[-1].kernel))


def test_nan_in_a_container_is_data_and_keeps_its_bits(tmp_path: Path) -> None:
    payloads = np.array([0x7FC00001, 0xFFC12345, 0x7F800001], np.uint32).view(np.float32)
    np.savez(tmp_path / "in.npz", a=payloads)
    api.weights(tmp_path / "in.npz", tmp_path / "out.json")
    assert read(tmp_path / "out.json")["a"].tobytes() == payloads.tobytes()


def test_the_answer_for_scripts_holds_the_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "in.npz", a=np.arange(3))
    assert main(["weights", str(tmp_path / "in.npz"), str(tmp_path / "out.h5"), "--compression", "gzip", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    with container_of("x.npz").open(tmp_path / "in.npz") as found:
        assert answer["digest"] == digest(found).hexdigest()
    assert answer["container"] == "hdf5" and answer["n_bytes"] == 24


def test_the_container_can_be_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", a=np.arange(3))
    assert api.weights(tmp_path / "in.npz", tmp_path / "state.dat", to="torch").container == "torch"
    assert torch.load(tmp_path / "state.dat", weights_only=True)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("suffix", "compression"), [(".json", "gzip"), (".npz", "blosc")])
def test_a_compression_that_a_container_lacks_is_refused(tmp_path: Path, suffix: str, compression: str) -> None:
    np.savez(tmp_path / "in.npz", a=np.arange(3))
    with pytest.raises(UsageError):
        api.weights(tmp_path / "in.npz", tmp_path / f"out{suffix}", compression=compression)


def test_the_source_is_not_replaced(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", a=np.arange(3))
    with pytest.raises(UsageError, match="would replace the source"):
        api.weights(tmp_path / "in.npz", tmp_path / "in.npz")
