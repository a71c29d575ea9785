"""Other libraries are the judges: they read what is written here, and what they write is read here."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from tests.weights.strategies import one_of_each
from tightship.errors import UnsupportedError
from tightship.weights import CONTAINERS, Tensor, Weights, container_of
from tightship.weights.dtypes import DTYPES
from tightship.weights.hdf5 import Hdf5

h5py = pytest.importorskip("h5py")

FLOATS = np.array([[0.5, -0.0, np.nan], [np.inf, 1e-45, -3.25]], np.float32)
ARRAYS = {"float.x": FLOATS, "int": np.arange(-3, 3), "yes": np.array([True, False]), "z": np.array(1 + 2j)}


def weights() -> Weights:
    return Weights.of({name: Tensor.from_array(array) for name, array in ARRAYS.items()})


def check_arrays(found: dict[str, np.ndarray]) -> None:
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.asarray(found[name]).tobytes() == array.tobytes()


def read(path: Path) -> dict[str, np.ndarray]:
    with container_of(path).open(path) as found:
        return {name: found[name].array() for name in found}


def test_numpy_reads_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    CONTAINERS["numpy"].write(weights(), path)
    with np.load(path, allow_pickle=False) as found:
        check_arrays(dict(found))


def test_python_reads_the_pickle(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    CONTAINERS["pickle"].write(weights(), path)
    check_arrays(pickle.loads(path.read_bytes()))


@pytest.mark.parametrize("compression", ["none", "gzip", "lzf", "blosc"])
def test_h5py_reads_the_datasets_chunked_with_checksums(compression: str, tmp_path: Path) -> None:
    if compression == "blosc":
        pytest.importorskip("hdf5plugin")
    path = tmp_path / "w.h5"
    Hdf5(compression).write(weights(), path)  # type: ignore[arg-type]
    with h5py.File(path) as file:
        check_arrays({name: np.asarray(file[name][()]) for name in file})
        dataset = file["float.x"]
        assert dataset.fletcher32 and dataset.chunks == (2, 3)
        assert compression in ("none", "blosc") or dataset.compression == compression
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
        assert compression != "blosc" or 32001 in filters


def test_safetensors_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    CONTAINERS["safetensors"].write(weights(), path)
    found = safetensors.torch.load_file(path)
    assert found["int"].tolist() == ARRAYS["int"].tolist()
    assert found["float.x"].numpy().tobytes() == FLOATS.tobytes()
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_torch_reads_the_state_dict_of_every_type_it_has(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    expected = one_of_each()
    CONTAINERS["torch"].write(expected, path)
    found = torch.load(path, weights_only=True)
    checked = 0
    for name, tensor in expected.types.items():
        if (
            tensor.dtype.startswith(("float", "bfloat", "int", "uint", "complex", "bool"))
            and DTYPES[tensor.dtype].bits > 7
        ):
            assert str(found[name].dtype) == f"torch.{tensor.dtype}" and tuple(found[name].shape) == tensor.shape
            assert found[name].reshape(-1).view(torch.uint8).numpy().tobytes() == bytes(expected[name].data)
            checked += 1
    assert checked == 20 * 5


def test_json_has_small_tensors_as_numbers_and_the_rest_as_base64(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    CONTAINERS["json"].write(weights(), path)
    found = json.loads(path.read_text())["tensors"]
    assert found["int"] == {"dtype": "int64", "shape": [6], "values": [-3, -2, -1, 0, 1, 2]}
    assert found["yes"]["values"] == [True, False]
    assert set(found["float.x"]) == {"dtype", "shape", "data"}  # NaN is no JSON


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_numpy_are_read_at_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    by_column = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    content = {**ARRAYS, "nested": {"list": [np.float32(3), by_column], 7: by_column.astype(">i4")}, "epoch": 3}
    path.write_bytes(pickle.dumps(content, protocol))
    with CONTAINERS["pickle"].open(path) as found:
        arrays = {name: found[name].array() for name in found}
        assert found.left_out == ("epoch",)
    assert arrays.pop("nested.list.0") == np.float32(3)
    assert arrays.pop("nested.list.1").tolist() == arrays.pop("nested.7").tolist() == by_column.tolist()
    check_arrays(arrays)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4"])
def test_pickles_of_ml_dtypes_are_read(name: str, tmp_path: Path) -> None:
    array = np.arange(5).astype(getattr(ml_dtypes, name))
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"a": array}))
    found = read(path)["a"]
    assert found.dtype == array.dtype and found.tolist() == array.tolist()


@pytest.mark.parametrize("new", [True, False])
def test_state_dicts_of_torch_are_read_views_and_all(new: bool, tmp_path: Path) -> None:
    state = {
        "plain": torch.arange(6.0).reshape(2, 3),
        "turned": torch.arange(12).reshape(3, 4).t()[1:],
        "expanded": torch.ones(1).expand(5),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "small": torch.tensor([1, 2], dtype=torch.uint8),
        "deep": {"parameter": torch.nn.Parameter(torch.ones(2))},
    }
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    found = read(tmp_path / "w.pt")
    assert found["turned"].tolist() == state["turned"].tolist()  # type: ignore[attr-defined]
    assert found["expanded"].tolist() == [1] * 5
    assert found["half"].dtype == ml_dtypes.bfloat16
    assert found["plain"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["deep.parameter"].tolist() == [1, 1]


def test_safetensors_of_its_own_library_are_read(tmp_path: Path) -> None:
    state = {
        "a": torch.arange(3, dtype=torch.bfloat16),
        "b": torch.zeros(2, 0),
        "c": torch.ones(2).to(torch.float8_e5m2),
    }
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", {"of": "ours"})
    found = read(tmp_path / "w.safetensors")
    assert found["a"].tolist() == [0, 1, 2] and found["b"].shape == (2, 0)
    assert found["c"].dtype == ml_dtypes.float8_e5m2


def test_archives_of_numpy_are_read_text_and_order_and_all(tmp_path: Path) -> None:
    arrays = {"text": np.array([["a", "bé"]]), "raw": np.array([b"xy", b"z"]), "big": np.arange(3, dtype=">f8")}
    np.savez_compressed(tmp_path / "w.npz", column=np.asfortranarray(np.arange(6).reshape(2, 3)), **arrays)
    found = read(tmp_path / "w.npz")
    assert found["text"].tolist() == [[b"a", "bé".encode()]]
    assert found["raw"].tolist() == [b"xy", b"z"]
    assert found["big"].tolist() == [0, 1, 2] and found["column"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_single_array_of_numpy_has_the_name_of_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "kernel.npy", np.arange(3))
    assert read(tmp_path / "kernel.npy")["kernel"].tolist() == [0, 1, 2]


def test_hdf5_of_keras_gives_its_weights_by_path(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["model_config"] = "{}"
        file["model_weights/dense/dense/kernel:0"] = np.arange(4.0)
        file["model_weights/dense"].attrs["weight_names"] = [b"dense/kernel:0"]
        file["optimizer_weights/m"] = np.arange(4.0)
    assert list(read(tmp_path / "w.h5")) == ["dense/dense/kernel:0"]


def test_elements_without_a_place_are_refused_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros(2, "datetime64[s]"))
    with pytest.raises(UnsupportedError, match=r"w\.npy: elements of type datetime64"):
        read(tmp_path / "w.npy")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, buffer)
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UnsupportedError, match=r"_rebuild_qtensor"):
        read(tmp_path / "w.pt")
