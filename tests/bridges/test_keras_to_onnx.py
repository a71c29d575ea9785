"""Keras models to graphs: ONNX Runtime computes what TensorFlow does, with the same names and free axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tightship import formats
from tightship.bridges import route
from tightship.core import graph
from tightship.core.keras_model import from_keras
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.core.tensorflow_runtime import require_keras
from tightship.engines import open_session
from tightship.errors import UnsupportedOperators

pytest.importorskip("h5py")  # which the extra brings; TensorFlow itself is imported quietly
require_keras("the tests")
import keras  # noqa: E402
from keras import layers, ops  # noqa: E402

TOLERANCE = 5e-6
"""Largest error relative to the largest output; 2e-6 was the most that was seen, one rounding is 6e-8."""


def cnn() -> Any:
    image = keras.Input((32, 32, 3), name="image")
    hidden = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", strides=2)(image)))
    hidden = layers.SeparableConv2D(32, 3, activation="swish")(layers.DepthwiseConv2D(3, padding="same")(hidden))
    hidden = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(hidden)
    hidden = layers.MaxPooling2D()(layers.UpSampling2D(2, interpolation="bilinear")(hidden))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="classes")(layers.Flatten()(hidden)))


def recurrent() -> Any:
    signal = keras.Input((None, 8), name="signal")
    hidden = layers.Bidirectional(layers.GRU(12))(layers.LSTM(16, return_sequences=True)(signal))
    return keras.Model(signal, layers.Dense(3, name="y")(hidden))


def several() -> Any:
    wide, deep = keras.Input((6,), name="wide"), keras.Input((4,), name="deep")
    category = keras.Input((1,), dtype="int32", name="category")
    known = layers.Flatten()(layers.Embedding(10, 5)(category))
    hidden = layers.Dense(16, activation="relu")(layers.Concatenate()([wide, deep, known]))
    dense = layers.Dense(4, name="shared")
    return keras.Model([wide, deep, category], [dense(hidden), dense(hidden * 2.0), layers.Dense(1)(hidden)])


def transformer() -> Any:
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    # A constant of more than 128 numbers, which TensorFlow captures as if it were an input.
    hidden = layers.Embedding(50, 32)(tokens) + np.random.default_rng(0).standard_normal((1, 12, 32), np.float32)
    for _ in range(2):
        normed = layers.LayerNormalization()(hidden)
        hidden = hidden + layers.MultiHeadAttention(4, 8)(normed, normed, use_causal_mask=True)
        hidden = hidden + layers.Dense(32)(layers.Dense(64, activation="gelu")(layers.LayerNormalization()(hidden)))
    return keras.Model(tokens, layers.Dense(50, name="logits")(hidden))


def sequential() -> Any:
    return keras.Sequential([keras.Input((5,), name="my features"), layers.Dropout(0.5), layers.Dense(2, name="y")])


def example(model: Model, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(count)
    shapes = {
        spec.name: (count, *(dim if isinstance(dim, int) else 7 for dim in spec.shape[1:])) for spec in model.inputs
    }
    return {
        spec.name: random.integers(0, 10, shapes[spec.name]).astype(np.int32)
        if spec.dtype == "int32"
        else random.standard_normal(shapes[spec.name], np.float32)
        for spec in model.inputs
    }


def check(model: Model) -> Model:
    """Compare both sides on 1 and 3 items, and return the graph."""
    converted = route(model, "graph")
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(converted)), full_check=True)
    assert (converted.inputs, converted.outputs) == (model.inputs, model.outputs)
    with open_session(model, Target("tensorflow")) as source, open_session(converted, Target()) as session:
        for count in (1, 3):
            inputs = example(model, count)
            found, expected = session.run(inputs), source.run(inputs)
            assert list(found) == list(expected)
            for name, array in expected.items():
                assert np.isfinite(array).all()
                np.testing.assert_allclose(found[name], array, rtol=0, atol=TOLERANCE * np.abs(array).max())
    return converted


@pytest.mark.parametrize("build", [cnn, recurrent, several, transformer, sequential])
def test_a_graph_computes_what_keras_does(build: Callable[[], Any]) -> None:
    keras.utils.set_random_seed(0)
    converted = check(from_keras(build()))
    assert converted.graph.opset_imports[""] == 18
    assert [step.name for step in converted.history] == ["keras-to-onnx"]


@pytest.mark.parametrize("name", ["ad01", "pretrainedResnet", "str_ww_ref_model", "vww_96"])
def test_old_files_become_graphs(data_dir: Path, name: str) -> None:
    path = data_dir / "mlperf_tiny" / f"{name}.h5"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    check(formats.read(formats.recognise(str(path))))


def test_a_free_length_stays_free_and_several_outputs_of_a_layer_keep_apart() -> None:
    assert [str(spec) for spec in from_keras(recurrent()).inputs] == ["signal: float32[batch, ?, 8]"]
    assert [spec.name for spec in from_keras(several()).outputs][:2] == ["shared_0", "shared_1"]
    assert [spec.name for spec in from_keras(sequential()).inputs] == ["my_features"]


def test_all_operators_that_onnx_lacks_are_named_at_once() -> None:
    x = keras.Input((8,), name="x")
    y = ops.add(ops.digamma(x) if hasattr(ops, "digamma") else ops.erfinv(x), ops.erfinv(x))
    z = layers.Dense(1)(ops.cholesky(ops.reshape(y, (-1, 2, 4))[:, :, :2])[:, :, 0])
    with pytest.raises(UnsupportedOperators, match=r"no counterpart for \d TensorFlow operators: .*Cholesky .*Erfinv"):
        route(from_keras(keras.Model(x, z)), "graph")
