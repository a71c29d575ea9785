"""Files that Keras 1.2.2 wrote on Theano, against what it predicted: see keras_1/write.py."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from tightship import engines, formats
from tightship.core.keras_first import renamed
from tightship.core.target import Target
from tightship.errors import InvalidModel, UnsupportedError

FOLDER = Path(__file__).parent / "keras_1"
NAMES = ("branches", "images_first", "images_last", "series", "text")


def read(path: Path) -> formats.Model:
    return formats.read(formats.recognise(str(path)))


def arrays(name: str, kind: str) -> list[np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return [file[key] for key in sorted(file.files) if key.startswith(kind)]


@pytest.mark.parametrize("name", NAMES)
def test_what_keras_1_predicted_is_computed_in_tensorflow(name: str) -> None:
    model = read(FOLDER / f"{name}.h5")
    feeds = {
        spec.name: value.astype(spec.dtype) for spec, value in zip(model.inputs, arrays(name, "input"), strict=True)
    }
    with engines.open_session(model, Target("tensorflow")) as session:
        found = session.run(feeds)
    for value, expected in zip(found.values(), arrays(name, "output"), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copy(FOLDER / f"{name}.h5", folder))


def test_without_a_word_on_the_backend_the_order_of_axes_tells_how_kernels_lie(tmp_path: Path) -> None:
    path = copied("images_last", tmp_path)
    with h5py.File(path, "r+") as file:
        del file.attrs["backend"]
    as_theano, as_tensorflow = (read(file).content.get_weights()[0] for file in (FOLDER / path.name, path))
    np.testing.assert_array_equal(as_theano, as_tensorflow[::-1, ::-1])


def test_how_kernels_were_taken_is_in_the_history() -> None:
    steps = [read(FOLDER / f"{name}.h5").history[0] for name in ("images_first", "text")]
    assert [step.name for step in steps] == ["read-keras-1", "read-keras-1"]
    assert [step.parameters["kernels"] for step in steps] == ["turned round, as of Theano", "as of TensorFlow"]


@pytest.mark.parametrize(("version", "slope"), [("2.2.4", 0.2), ("3.0.0", 1 / 6)])
def test_hard_sigmoid_has_the_slope_of_the_keras_that_wrote_it(tmp_path: Path, version: str, slope: float) -> None:
    import keras

    path = tmp_path / "net.h5"
    layers = keras.layers
    gates = layers.Dense(3, activation="hard_sigmoid", name="gates")
    keras.Sequential([keras.Input((4,)), gates, layers.Activation("hard_sigmoid")]).save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = version
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    found = read(path).content.predict(x, verbose=0)
    inner = np.clip(slope * (x @ gates.kernel.numpy() + gates.bias.numpy()) + 0.5, 0, 1)
    np.testing.assert_allclose(found, np.clip(slope * inner + 0.5, 0, 1), atol=1e-6)


def test_weights_that_do_not_fit_are_told_by_layer(tmp_path: Path) -> None:
    path = copied("text", tmp_path)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/bidirectional_1"]
        group.attrs["weight_names"] = group.attrs["weight_names"][:-1]
    with pytest.raises(InvalidModel, match=r"weights of 'bidirectional_1'.* a LSTM has 12 arrays"):
        read(path)


def test_layers_that_keras_dropped_are_named_together(tmp_path: Path) -> None:
    path = copied("series", tmp_path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"][1]["class_name"] = "MaxoutDense"
        config["config"].append({"class_name": "Highway", "config": {"name": "highway"}})
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UnsupportedError, match="with a Highway, a MaxoutDense, which no newer Keras has"):
        read(path)


@pytest.mark.parametrize(
    "settings", [{"nb_row": 2, "nb_col": 3}, {"nb_row": 3, "nb_col": 3, "subsample": [2, 2]}], ids=["even", "strides"]
)
def test_padding_that_only_theano_lays_so_is_refused(settings: dict[str, object]) -> None:
    layer = {"class_name": "Convolution2D", "config": {"name": "c", "nb_filter": 2, "border_mode": "same", **settings}}
    config = {"class_name": "Sequential", "config": [layer]}
    with pytest.raises(UnsupportedError, match="a Convolution2D padded as Theano pads"):
        renamed(Path("old.h5"), config, theano=True)
    assert renamed(Path("old.h5"), config, theano=False)["config"][0]["class_name"] == "Conv2D"
