"""Data is read from files and functions, fitted to the model, and refused with its reason."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from tightship.core import sources
from tightship.core.dataset import Dataset
from tightship.core.specs import TensorSpec
from tightship.errors import DatasetError, DatasetMismatch

IMAGE = TensorSpec("image", "float32", ("batch", 1, 8, 8))


def arrays(**inputs: np.ndarray) -> Dataset:
    return Dataset.from_arrays("data", "digest", inputs)


def test_an_npz_gives_its_arrays_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=np.ones((3, 1, 8, 8), np.float32), labels=np.arange(3))
    dataset = sources.load(str(tmp_path / "d.npz"))
    batch = next(dataset.open())
    assert set(batch.inputs) == {"image"} and batch.labels is not None and batch.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 not a zip", bytes(range(256)) * 8], ids=["empty", "pk", "random"]
)
def test_a_file_that_is_no_npz_is_a_dataset_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DatasetError, match="not a readable"):
        sources.load(str(tmp_path / "d.npz"))


def test_a_truncated_npz_is_a_dataset_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=np.random.default_rng(0).random((30, 64)))
    whole = (tmp_path / "d.npz").read_bytes()
    for part in range(1, 8):
        (tmp_path / "t.npz").write_bytes(whole[: len(whole) * part // 8])
        with pytest.raises(DatasetError):
            sources.load(str(tmp_path / "t.npz"))


def test_pickled_objects_in_an_npz_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DatasetError, match="pickled Python objects"):
        sources.load(str(tmp_path / "d.npz"))


def test_an_npz_that_unpacks_to_more_than_memory_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("image.npy", b"")
        archive.infolist()[0].file_size = 2**50
    with pytest.raises(DatasetError, match="unpacks to"):
        sources.load(str(tmp_path / "d.npz"))


def test_a_missing_file_is_a_dataset_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        sources.load(str(tmp_path / "d.npz"))


def test_other_suffixes_are_refused_with_what_is_expected() -> None:
    with pytest.raises(DatasetError, match=r"expected an \.npz file or package\.module:function"):
        sources.load("data.parquet")


def test_a_function_yields_batches_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_batches.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        "    for start in (0, 2):\n"
        "        yield {'image': np.full((2, 1), start, np.float32)}, np.array([start, start])\n"
    )
    monkeypatch.chdir(tmp_path)
    dataset = sources.load("my_batches:batches")
    assert dataset.n_items == 4 == dataset.n_items
    assert [batch.labels.tolist() for batch in dataset.open() if batch.labels is not None] == [[0, 0], [2, 2]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_such_module_here:f", "cannot import"),
        ("json:lods", "did you mean 'loads'"),
    ],
)
def test_a_function_that_is_not_there_is_a_dataset_error(source: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        sources.load(source)


def test_the_name_of_a_single_input_is_taken_over_and_told() -> None:
    fitted, notes = sources.fit(arrays(x=np.zeros((2, 1, 8, 8), np.float32)), [IMAGE])
    assert set(next(fitted.open()).inputs) == {"image"}
    assert notes == ("array 'x' feeds input 'image'",)


def test_bytes_become_float_and_missing_axes_of_one_are_added_and_told() -> None:
    pixels = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    fitted, notes = sources.fit(arrays(image=pixels), [IMAGE])
    array = next(fitted.open()).inputs["image"]
    assert array.dtype == np.float32 and array.shape == (2, 1, 8, 8) and np.array_equal(array.ravel(), pixels.ravel())
    assert len(notes) == 2


def test_integers_that_do_not_fit_the_narrower_type_are_refused() -> None:
    spec = TensorSpec("ids", "int32", ("batch", 1))
    with pytest.raises(DatasetMismatch, match="expected type int32, found int64"):
        sources.fit(arrays(ids=np.array([[2**40]])), [spec])


def test_floats_for_an_integer_input_are_refused() -> None:
    with pytest.raises(DatasetMismatch, match="expected type int64, found float32"):
        sources.fit(arrays(ids=np.zeros((2, 4), np.float32)), [TensorSpec("ids", "int64", ("batch", 4))])


def test_a_wrong_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(DatasetMismatch, match=r"expected shape \[1, 8, 8\], found \[3, 8, 8\]"):
        sources.fit(arrays(image=np.zeros((2, 3, 8, 8), np.float32)), [IMAGE])


def test_a_missing_input_is_refused_with_the_nearest_name() -> None:
    mask = TensorSpec("mask", "int64", ("batch", 4))
    with pytest.raises(DatasetMismatch, match=r"no array for input 'image' \(did you mean 'imag'\?\)"):
        sources.fit(arrays(imag=np.zeros((2, 1, 8, 8)), mask=np.zeros((2, 4), np.int64)), [IMAGE, mask])


def test_extra_arrays_are_left_out() -> None:
    both = {"image": np.zeros((2, 1, 8, 8), np.float32), "other": np.zeros(2)}
    fitted, _ = sources.fit(arrays(**both), [IMAGE])
    assert set(next(fitted.open()).inputs) == {"image"}
