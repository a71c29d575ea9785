"""Keras files: old ones mean what they meant, hostile ones are refused as data, and what is written loads anywhere."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightship import formats
from tightship.core.keras_legacy import modernized
from tightship.core.keras_model import from_keras
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.core.tensorflow_runtime import require_keras
from tightship.engines import open_session
from tightship.errors import InvalidModel, TightshipError, UnsupportedError, UnsupportedOperators

pytest.importorskip("h5py")  # which the extra brings; TensorFlow itself is imported quietly
require_keras("the tests")
import h5py  # noqa: E402
import keras  # noqa: E402
from keras import layers  # noqa: E402

Config = dict[str, Any]
OLD = ["ad01", "pretrainedResnet", "str_ww_ref_model", "vww_96"]


def read(path: Path) -> Model:
    return formats.read(formats.recognise(str(path)))


def run(source: Model | Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    with open_session(source, Target("tensorflow")) as session:
        return session.run(inputs)


def old(data_dir: Path, name: str) -> Path:
    path = data_dir / "mlperf_tiny" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module")
def net() -> Model:
    """Convolutions, an operation with a constant, two inputs and two outputs of one layer."""
    keras.utils.set_random_seed(0)
    image, scale = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="scale")
    hidden = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(image))
    pooled = layers.GlobalAveragePooling2D()(hidden)
    dense = layers.Dense(4, name="mixed")
    return from_keras(keras.Model([image, scale], [dense(pooled * 2.0), dense(scale)], name="net"))


def example(count: int = 2) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "image": random.standard_normal((count, 8, 8, 3), np.float32),
        "scale": random.standard_normal((count, 4), np.float32),
    }


# Old files


@pytest.mark.parametrize("name", OLD)
def test_every_weight_of_an_old_file_is_the_one_of_its_layer(data_dir: Path, name: str) -> None:
    path = old(data_dir, f"{name}.h5")
    model = read(path).content
    seen = 0
    with h5py.File(path) as file:
        for layer, group in file["model_weights"].items():
            names = group.attrs.get("weight_names", [])
            for name_in_file, weight in zip(names, model.get_layer(layer).weights if len(names) else (), strict=True):
                np.testing.assert_array_equal(group[name_in_file], weight.numpy())
                seen += 1
    assert seen == len(model.weights) > 0


@pytest.mark.parametrize(
    ("name", "twin"), [("pretrainedResnet.h5", "pretrainedResnet.tflite"), ("vww_96.h5", "vww_96_float.tflite")]
)
def test_an_old_file_computes_what_its_tflite_twin_does(data_dir: Path, name: str, twin: str) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(str(old(data_dir, twin)))
    interpreter.allocate_tensors()
    model = read(old(data_dir, name))
    image = np.random.default_rng(0).random(model.inputs[0].resolve(1), np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    found = run(model, **{model.inputs[0].name: image})[model.outputs[0].name]
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)  # probabilities; 1.1e-6 was seen, kernels differ


def test_an_old_file_computes_what_its_weights_do_in_numpy(data_dir: Path) -> None:
    path = old(data_dir, "ad01.h5")
    frames = np.random.default_rng(0).standard_normal((3, 640))
    hidden = frames
    with h5py.File(path) as file:
        weights = file["model_weights"]
        for index in range(10):
            tail = f"_{index}" if index else ""
            dense = weights[f"dense{tail}/dense{tail}"]
            hidden = hidden @ np.float64(dense["kernel:0"]) + dense["bias:0"]
            if index < 9:
                norm = weights[f"batch_normalization{tail}/batch_normalization{tail}"]
                hidden = (hidden - norm["moving_mean:0"]) / np.sqrt(np.float64(norm["moving_variance:0"]) + 1e-3)
                hidden = np.maximum(hidden * norm["gamma:0"] + norm["beta:0"], 0)
    found = run(path, input_1=frames.astype(np.float32))["dense_9"]
    np.testing.assert_allclose(found, hidden, rtol=0, atol=1e-5 * np.abs(hidden).max())  # ten float32 products


def test_a_file_of_weights_alone_says_what_to_do(tmp_path: Path, net: Model) -> None:
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["layer_names"] = [b"lstm", b"dense"]
        for layer in ("lstm", "dense"):
            file.create_group(layer)
    with pytest.raises(InvalidModel, match=r"weights without a network \(of the layers dense, lstm\).*--weights"):
        read(tmp_path / "weights.h5")


def legacy(path: Path, config: Config, version: str = "2.4.0", layer_names: tuple[str, ...] = ()) -> Path:
    """A file as Keras 2 wrote it, without weights."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = version
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.array([name.encode() for name in layer_names], "S32")
        group.attrs["keras_version"], group.attrs["backend"] = version, "tensorflow"
    return path


def layer(kind: str, name: str, *nodes: Any, **config: Any) -> Config:
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": list(nodes)}


def functional(*parts: Config, outputs: tuple[str, ...]) -> Config:
    inputs = [[part["name"], 0, 0] for part in parts if part["class_name"] == "InputLayer"]
    config = {"name": "old", "layers": list(parts), "input_layers": inputs}
    return {"class_name": "Functional", "config": {**config, "output_layers": [[name, 0, 0] for name in outputs]}}


X = layer("InputLayer", "x", batch_input_shape=[None, 4], dtype="float32", sparse=False, ragged=False)
Y = layer("InputLayer", "y", batch_input_shape=[None, 4], dtype="float32", sparse=False, ragged=False)


def call(function: str, name: str, *nodes: Any) -> Config:
    return layer("TFOpLambda", name, *nodes, trainable=True, dtype="float32", function=function)


def test_recorded_calls_of_tensorflow_become_operations_of_keras(tmp_path: Path) -> None:
    config = functional(
        X,
        Y,
        call("math.multiply", "tf.math.multiply", ["x", 0, 0, {"y": 2.0, "name": None}]),
        call("__operators__.add", "add", ["tf.math.multiply", 0, 0, {"y": ["y", 0, 0]}]),
        call("math.subtract", "one_minus", ["_CONSTANT_VALUE", -1, 1.0, {"y": ["add", 0, 0], "name": None}]),
        call("concat", "tf.concat", [["x", 0, 0, {"axis": -1}], ["one_minus", 0, 0, {"axis": -1}]]),
        call("math.reduce_mean", "mean", ["tf.concat", 0, 0, {"axis": 1, "keepdims": True}]),
        call("clip_by_value", "clip", ["tf.concat", 0, 0, {"clip_value_min": -0.5, "clip_value_max": 0.5}]),
        outputs=("mean", "clip"),
    )
    model = read(legacy(tmp_path / "old.h5", config))
    x, y = (np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32) for seed in (0, 1))
    both = np.concatenate([x, 1 - (x * 2 + y)], -1)
    for source in (model, formats.write(model, tmp_path / "new.keras").path):
        found = run(source, x=x, y=y)
        np.testing.assert_allclose(found["mean"], both.mean(1, keepdims=True), rtol=0, atol=1e-6)
        # x * 2 + y may be fused, with one rounding for two
        np.testing.assert_allclose(found["clip"], np.clip(both, -0.5, 0.5), rtol=0, atol=5e-7)


def test_all_unknown_functions_of_tensorflow_are_named_at_once(tmp_path: Path) -> None:
    config = functional(
        X,
        call("signal.stft", "tf.signal.stft", ["x", 0, 0, {"frame_length": 2}]),
        call("os.system", "evil", ["tf.signal.stft", 0, 0, {}]),
        layer("SlicingOpLambda", "slice", ["evil", 0, 0, {"slice_spec": 1}]),
        outputs=("slice",),
    )
    with pytest.raises(UnsupportedOperators, match=r"3 .*SlicingOpLambda .*tf\.os\.system .*tf\.signal\.stft"):
        read(legacy(tmp_path / "old.h5", config))


def test_tensors_given_by_keyword_reach_attention(tmp_path: Path) -> None:
    sequence = {"batch_input_shape": [None, 5, 4], "dtype": "float32"}
    config = functional(
        layer("InputLayer", "x", **sequence),
        layer("InputLayer", "y", **sequence),
        layer("MultiHeadAttention", "attention", [["x", 0, 0, {"value": ["y", 0, 0]}]], num_heads=1, key_dim=2),
        outputs=("attention",),
    )
    path = Path("old.h5")
    description = modernized(path, config)["config"]["layers"][2]["inbound_nodes"][0]
    assert description["args"][0]["config"]["keras_history"] == ["x", 0, 0]
    assert description["kwargs"]["value"]["config"]["keras_history"] == ["y", 0, 0]


def test_a_sequential_model_of_keras_2_0_gets_its_input(tmp_path: Path) -> None:
    """Its config is a list, its first layer has the shape, and its initializers have a dtype."""
    initializer = {"class_name": "RandomNormal", "config": {"mean": 0.0, "stddev": 0.1, "seed": 1, "dtype": "float32"}}
    first = {"name": "first", "batch_input_shape": [None, 6], "dtype": "float32", "units": 3, "activation": "relu"}
    config = [
        {"class_name": "Dense", "config": {**first, "kernel_initializer": initializer}},
        {"class_name": "Dense", "config": {"name": "second", "units": 2, "activation": "linear"}},
    ]
    kernel = np.arange(18, dtype=np.float32).reshape(6, 3)
    path = legacy(tmp_path / "old.h5", {"class_name": "Sequential", "config": config}, "2.0.6", ("first", "second"))
    with h5py.File(path, "r+") as file:
        for name, arrays in (("first", (kernel, np.ones(3))), ("second", (np.ones((3, 2)), np.zeros(2)))):
            group = file.create_group(f"model_weights/{name}")
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            for part, array in zip(("kernel:0", "bias:0"), arrays, strict=True):
                group[f"{name}/{part}"] = array.astype(np.float32)
    model = read(path)
    x = np.eye(6, dtype=np.float32)
    found = run(model, **{model.inputs[0].name: x})["second"]
    np.testing.assert_array_equal(found, np.repeat((kernel + 1).sum(1, keepdims=True), 2, 1))


def test_settings_that_change_the_meaning_are_not_dropped(tmp_path: Path) -> None:
    one, two = ({"class_name": "DepthwiseConv2D", "config": {"name": "d", "groups": groups}} for groups in (1, 2))
    assert "groups" not in modernized(Path("m.h5"), one)["config"]
    assert modernized(Path("m.h5"), two)["config"]["groups"] == 2


# Written files


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".hdf5", ".KERAS"])
def test_what_is_written_is_read_again_with_the_same_names_and_outputs(tmp_path: Path, net: Model, suffix: str) -> None:
    again = read(formats.write(net, tmp_path / f"net{suffix}").path)
    assert (again.inputs, again.outputs) == (net.inputs, net.outputs)
    assert [spec.name for spec in again.outputs] == ["mixed_0", "mixed_1"]
    expected, found = run(net, **example()), run(again, **example())
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert [path.name for path in tmp_path.iterdir()] == [f"net{suffix}"]


LOADS = """
import sys
import keras, numpy as np, tensorflow as tf
folder = sys.argv[1]
example = np.load(f"{folder}/example.npz")
for name in ("net.keras", "net.h5"):
    for found, expected in zip(keras.saving.load_model(f"{folder}/{name}")([example["image"], example["scale"]]),
                               (example["mixed_0"], example["mixed_1"])):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
serve = tf.saved_model.load(f"{folder}/net.savedmodel").signatures["serving_default"]
found = serve(image=tf.constant(example["image"]), scale=tf.constant(example["scale"]))
for name in ("mixed_0", "mixed_1"):
    np.testing.assert_allclose(found[name], example[name], rtol=0, atol=1e-6)
assert not any(name.startswith("tightship") for name in sys.modules)
"""


def test_what_is_written_loads_where_tightship_is_not(tmp_path: Path, net: Model) -> None:
    for suffix in (".keras", ".h5", ".savedmodel"):
        formats.write(net, tmp_path / f"net{suffix}")
    np.savez(tmp_path / "example.npz", **example(), **run(net, **example()))
    done = subprocess.run([sys.executable, "-c", LOADS, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_model_of_another_form_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="written from a keras model, found a graph"):
        formats.write(Model("graph", None, (), ()), tmp_path / "net.keras")
    assert not list(tmp_path.iterdir())


def test_a_model_whose_shapes_are_unknown_is_refused() -> None:
    with pytest.raises(InvalidModel, match=r"no inputs of known shape.*keras\.Input"):
        from_keras(keras.Sequential([layers.Dense(3)]))


# Hostile files


def edited(net: Model, path: Path, edit: Callable[[Config], None]) -> Path:
    """A `.keras` file whose description was changed."""
    whole = formats.write(net, path.with_name("whole.keras")).path
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                edit(config)
                content = json.dumps(config).encode()
            target.writestr(name, content)
    return path


def part(config: Config, kind: str) -> Config:
    return next(entry for entry in config["config"]["layers"] if entry["class_name"] == kind)


def foreign_class(config: Config) -> None:
    part(config, "Dense").update(module="planted.layers", registered_name="Planted")


def custom_class(config: Config) -> None:
    part(config, "Dense").update(module=None, registered_name="pack>Dense")


def downloader(config: Config) -> None:
    function = {"class_name": "function", "config": "get_file", "module": "keras.utils", "registered_name": "get_file"}
    part(config, "Dense")["config"]["activation"] = function


def pickled_lambda(config: Config) -> None:
    part(config, "Dense")["config"]["activation"] = {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}


def file_of_words(config: Config) -> None:
    part(config, "Dense").update(class_name="StringLookup", config={"name": "words", "vocabulary": "/etc/passwd"})


def wrapper(config: Config) -> None:
    part(config, "Dense").update(class_name="TFSMLayer", config={"name": "mixed", "filepath": "x"})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (foreign_class, r"layer 'mixed' is a Dense of the module planted\.layers"),
        (custom_class, r"layer 'mixed' is the custom class pack>Dense"),
        (downloader, r"layer 'mixed' is a function of the module keras\.utils"),
        (pickled_lambda, r"layer 'mixed' is a Lambda: Python code in the file"),
        (file_of_words, r"would read the file '/etc/passwd'"),
        (wrapper, r"is a TFSMLayer"),
    ],
)
def test_a_description_that_reaches_beyond_keras_is_refused(
    net: Model, tmp_path: Path, edit: Callable[[Config], None], reason: str
) -> None:
    with pytest.raises(UnsupportedError, match=rf"(?s){reason}.*Where you trust the file.*model\.export"):
        read(edited(net, tmp_path / "a.keras", edit))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_all_lambda_layers_are_named_at_once(tmp_path: Path, suffix: str) -> None:
    x = keras.Input((3,))
    hidden = layers.Lambda(lambda value: value * 2, name="twice")(x)
    model = keras.Model(x, layers.Lambda(lambda value: value + 1, name="more", output_shape=(3,))(hidden))
    model.save(tmp_path / f"model{suffix}")
    with pytest.raises(UnsupportedError, match=r"'twice' is a Lambda.*'more' is a Lambda"):
        read(tmp_path / f"model{suffix}")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_in_a_file_runs_where_the_user_says_so(tmp_path: Path, suffix: str) -> None:
    x = keras.Input((3,), name="x")
    keras.Model(x, layers.Lambda(lambda value: value * 2, name="twice", output_shape=(3,))(x)).save(
        tmp_path / f"model{suffix}"
    )
    artifact = formats.recognise(str(tmp_path / f"model{suffix}"))
    model, _ = formats.read_shaped(artifact, {}, ("Lambda",))
    with open_session(model, Target("tensorflow")) as session:
        [found] = session.run({"x": np.float32([[1, 2, 3]])}).values()
    np.testing.assert_array_equal(found, [[2, 4, 6]])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_class_of_another_module_is_imported_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    name = f"planted_{suffix[1:]}"
    (tmp_path / f"{name}.py").write_text("import keras\n\n\nclass Own(keras.layers.Dense):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    x = keras.Input((3,), name="x")
    keras.Model(x, importlib.import_module(name).Own(4, name="own")(x)).save(tmp_path / f"model{suffix}")
    artifact = formats.recognise(str(tmp_path / f"model{suffix}"))
    with pytest.raises(TightshipError):
        formats.read(artifact)
    model, _ = formats.read_shaped(artifact, {}, (f"{name}.Own",))
    assert type(model.content.get_layer("own")).__module__ == name


@pytest.mark.parametrize("member", ["../planted.py", "/etc/planted", "assets/../../planted", "model.weights.npz"])
def test_members_that_keras_does_not_write_are_refused(net: Model, tmp_path: Path, member: str) -> None:
    path = edited(net, tmp_path / "a.keras", lambda config: None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, b"x")
    with pytest.raises(InvalidModel, match="which Keras does not write"):
        read(path)


def test_a_member_that_is_there_twice_is_refused(net: Model, tmp_path: Path) -> None:
    path = edited(net, tmp_path / "a.keras", lambda config: None)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("config.json", b"{}")
    with pytest.raises(InvalidModel, match="two members have the same name"):
        read(path)


def test_an_archive_that_unpacks_without_bound_is_refused(net: Model, tmp_path: Path) -> None:
    path = edited(net, tmp_path / "a.keras", lambda config: None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("assets/x", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))
    with pytest.raises(InvalidModel, match=r"unpack to \d+; it is not opened"):
        read(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_that_is_cut_short_is_refused_by_its_name(net: Model, tmp_path: Path, suffix: str) -> None:
    path = formats.write(net, tmp_path / f"net{suffix}").path
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InvalidModel, match=path.name):
        read(path)


def test_a_flipped_bit_in_an_archive_is_found(net: Model, tmp_path: Path) -> None:
    path = formats.write(net, tmp_path / "net.keras").path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidModel, match=r"the checksum of 'model\.weights\.h5' is wrong"):
        read(path)


def test_a_description_nested_without_end_is_refused(net: Model, tmp_path: Path) -> None:
    path = legacy(tmp_path / "deep.h5", {})
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = '{"class_name": "Functional", "config": ' + "[" * 100_000
    with pytest.raises(TightshipError, match=path.name):
        read(path)
