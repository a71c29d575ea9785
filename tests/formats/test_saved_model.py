"""SavedModels: read through whichever loader works, and refused where their graph does more than compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tightship import formats
from tightship.core import graph
from tightship.core.keras_model import from_keras
from tightship.core.model import Model
from tightship.core.saved_model import open_saved_model
from tightship.core.target import Target
from tightship.core.tensorflow_runtime import require_keras
from tightship.core.tensorflow_to_onnx import saved_model_to_file
from tightship.engines import open_session
from tightship.errors import ArtifactNotFound, InvalidModel, OutputError, UnsupportedError, UnsupportedOperators

pytest.importorskip("h5py")  # which the extra brings; TensorFlow itself is imported quietly
require_keras("the tests")
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402


def net() -> Model:
    keras.utils.set_random_seed(0)
    a, b = keras.Input((4,), name="wide"), keras.Input((2, 3), name="deep")
    hidden = layers.Concatenate()([a, layers.Flatten()(b)])
    outputs = {"score": layers.Dense(1)(hidden), "logits": layers.Dense(3)(hidden)}
    return from_keras(keras.Model([a, b], outputs))


def run(source: Model | Path, engine: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with open_session(source, Target(engine)) as session:
        return session.run(inputs)


def saved(folder: Path, function: Callable[[tf.Tensor], tf.Tensor], **parts: object) -> Path:
    module = tf.Module()
    for name, value in parts.items():
        setattr(module, name, value)
    wrapped = tf.function(
        lambda x: {"y": function(x)}, input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")], autograph=False
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": wrapped})
    return folder


def test_the_keyword_spotter_is_read_though_the_modern_loader_fails(data_dir: Path) -> None:
    """Its optimizer's slots are what `tf.saved_model.load` of TensorFlow 2.21 cannot restore."""
    folder = data_dir / "mlperf_tiny" / "kws_ref_model"
    model = formats.read(formats.recognise(str(folder)))
    assert [str(spec) for spec in model.inputs] == ["input_1: float32[batch, 49, 10, 1]"]
    assert [str(spec) for spec in model.outputs] == ["dense: float32[batch, 12]"]
    sound = {"input_1": np.random.default_rng(0).standard_normal((3, 49, 10, 1), np.float32)}
    expected, found = run(folder, "tensorflow", sound), run(model, "onnxruntime", sound)
    np.testing.assert_allclose(found["dense"], expected["dense"], rtol=0, atol=1e-6)  # 2.4e-7 was seen
    assert expected["dense"].shape == (3, 12)


def smoothing(tmp_path: Path) -> Path:
    """y = next memory = 0.9 memory + x; what the layers of a recurrent network in a loop do."""
    memory = tf.Variable(tf.zeros((1, 3)), name="filter/memory")
    weights = tf.Variable(tf.eye(3) * 2, name="weights")

    def function(x: tf.Tensor) -> tf.Tensor:
        after = 0.9 * memory + tf.matmul(x, weights)
        memory.assign(after[:1])
        return after

    return saved(tmp_path / "net", function, memory=memory, weights=weights)


def test_a_state_that_is_assigned_becomes_an_input_and_an_output(tmp_path: Path) -> None:
    folder = smoothing(tmp_path)
    model = formats.read(formats.recognise(str(folder)))
    assert [spec.name for spec in model.inputs] == ["x", "filter_state_0"]
    assert [spec.name for spec in model.outputs] == ["y", "filter_state_0_next"]
    x, memory = np.ones((1, 3), np.float32), np.full((1, 3), 10, np.float32)
    for source, engine in ((folder, "tensorflow"), (model, "onnxruntime")):
        found = run(source, engine, {"x": x, "filter_state_0": memory})
        np.testing.assert_allclose(found["y"], np.full((1, 3), 11))
        np.testing.assert_allclose(found["filter_state_0_next"], np.full((1, 3), 11))


def test_a_state_that_is_read_again_after_it_was_written_is_refused(tmp_path: Path) -> None:
    memory = tf.Variable(tf.zeros((1, 3)), name="memory")

    def function(x: tf.Tensor) -> tf.Tensor:
        memory.assign(memory + x[:1])
        return x + memory

    folder = saved(tmp_path / "net", function, memory=memory)
    with pytest.raises(UnsupportedError, match="read after it was written in the same run"):
        saved_model_to_file(folder, tmp_path / "model.onnx")


@pytest.mark.parametrize("length", [8, 7])
def test_spectra_are_written_out_in_real_numbers(tmp_path: Path, length: int) -> None:
    def function(x: tf.Tensor) -> tf.Tensor:
        spectrum = tf.signal.rfft(tf.tile(x, [1, 3])[:, :length], [length])
        size, phase = tf.abs(spectrum), tf.math.angle(spectrum)
        turned = tf.cast(tf.sqrt(size), tf.complex64) * tf.exp(1j * tf.cast(phase, tf.complex64))
        mixed = tf.reshape(turned + tf.math.conj(spectrum) * (0.5 - 0.25j), tf.shape(spectrum))
        return tf.signal.irfft(mixed, [length]) + tf.math.real(turned)[:, :1] - tf.math.imag(turned)[:, 1:2]

    folder = saved(tmp_path / "net", function)
    model = formats.read(formats.recognise(str(folder)))
    x = {"x": np.random.default_rng(0).standard_normal((4, 3), np.float32)}
    expected, found = run(folder, "tensorflow", x)["y"], run(model, "onnxruntime", x)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_complex_operators_without_a_counterpart_are_named(tmp_path: Path) -> None:
    def function(x: tf.Tensor) -> tf.Tensor:
        return tf.math.real(tf.signal.fft(tf.cast(x, tf.complex64))) + tf.abs(tf.math.sin(tf.cast(x, tf.complex64)))

    folder = saved(tmp_path / "net", function)
    with pytest.raises(UnsupportedOperators, match="complex numbers without a counterpart: FFT, Sin"):
        saved_model_to_file(folder, tmp_path / "model.onnx")


def test_a_state_that_is_counted_up_in_place_is_not_read_into_a_graph(tmp_path: Path) -> None:
    count = tf.Variable(0.0)
    folder = saved(tmp_path / "net", lambda x: x + count.assign_add(1.0), count=count)
    with pytest.raises(UnsupportedError, match=r"keeps a state between runs \(AssignAdd\w+\).*return_state=True"):
        saved_model_to_file(folder, tmp_path / "model.onnx")


def test_what_is_written_keeps_names_and_outputs_and_is_read_again(tmp_path: Path) -> None:
    model = net()
    folder = formats.write(model, tmp_path / "net.savedmodel").path
    random = np.random.default_rng(0)
    inputs = {spec.name: random.standard_normal(spec.resolve(3), np.float32) for spec in model.inputs}
    expected, again = run(model, "tensorflow", inputs), run(folder, "tensorflow", inputs)
    converted = tmp_path / "model.onnx"
    saved_model_to_file(folder, converted)
    found = run(graph.from_bytes(converted.read_bytes()), "onnxruntime", inputs)
    assert set(expected) == set(again) == set(found) == {"score", "logits"}
    for name, array in expected.items():
        np.testing.assert_array_equal(again[name], array)
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6)
    assert {path.name for path in folder.iterdir()} >= {"saved_model.pb", "variables"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "net.savedmodel"]


def test_any_folder_that_holds_a_saved_model_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "saved_model.pb").write_bytes(b"")
    assert formats.recognise(str(tmp_path / "plain")).format == "saved-model"
    with pytest.raises(ArtifactNotFound, match="no such folder"):
        formats.recognise(str(tmp_path / "missing.savedmodel"))


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "net.savedmodel").mkdir()
    (tmp_path / "net.savedmodel" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        formats.write(net(), tmp_path / "net.savedmodel")
    assert (tmp_path / "net.savedmodel" / "thesis.txt").read_text() == "mine"


def write_file(x: tf.Tensor) -> tf.Tensor:
    tf.io.write_file("/tmp/planted", "x")
    return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)


def call_python(x: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.numpy_function(lambda value: value, [x], tf.float32), x.shape)


def inside_a_loop(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda x: tf.reduce_sum(x) < 1, lambda x: [write_file(x)], [x])[0]


@pytest.mark.parametrize(
    ("function", "named"),
    [(write_file, "ReadFile, WriteFile"), (call_python, "PyFunc"), (inside_a_loop, "ReadFile, WriteFile")],
)
def test_a_graph_that_reaches_out_is_refused_before_it_is_loaded(
    tmp_path: Path, function: Callable[[tf.Tensor], tf.Tensor], named: str
) -> None:
    with pytest.raises(UnsupportedError, match=rf"read or write files, call Python or print: .*{named}"):
        open_saved_model(saved(tmp_path / "evil", function))


def test_a_table_of_words_from_the_models_own_assets_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a\nb\n")
    start = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    table = tf.lookup.StaticHashTable(start, -1)

    def look(x: tf.Tensor) -> tf.Tensor:
        return x + tf.cast(table.lookup(tf.constant("b")), tf.float32)

    folder = saved(tmp_path / "words", look, table=table)
    (tmp_path / "words.txt").unlink()
    found = run(folder, "tensorflow", {"x": np.zeros((1, 3), np.float32)})
    np.testing.assert_array_equal(found["y"], np.ones((1, 3)))


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"hello, I am no model"])
def test_a_description_that_is_none_is_refused_by_its_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "saved_model.pb").write_bytes(content)
    with pytest.raises(InvalidModel, match="net"):
        open_saved_model(tmp_path / "net")


def test_variables_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    weight = tf.Variable(np.ones((3, 1000), np.float32))
    folder = saved(tmp_path / "net", lambda x: x @ weight, weight=weight)
    values = folder / "variables" / "variables.data-00000-of-00001"
    values.write_bytes(values.read_bytes()[:100])
    with pytest.raises(InvalidModel, match="TensorFlow cannot load it"):
        open_saved_model(folder)
