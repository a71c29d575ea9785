"""What the TensorFlow engine does beyond the contract of all engines."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tightship.core.keras_model import from_keras
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.core.tensorflow_runtime import require_keras
from tightship.engines import open_session
from tightship.errors import EngineError

pytest.importorskip("h5py")  # which the extra brings; TensorFlow itself is imported quietly
require_keras("the tests")
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402

TARGET = Target("tensorflow", threads=1)


@pytest.fixture(scope="module")
def network() -> Model:
    keras.utils.set_random_seed(0)
    tokens, scale = keras.Input((5,), dtype="int32", name="tokens"), keras.Input((1,), name="scale")
    hidden = layers.LSTM(4)(layers.Embedding(10, 6)(tokens))
    hidden = layers.BatchNormalization()(layers.Dropout(0.5)(hidden))
    return from_keras(keras.Model([tokens, scale], layers.Multiply(name="y")([hidden, scale])))


def arrays(count: int = 3) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, 10, (count, 5)).astype(np.int32)
    return {"tokens": tokens, "scale": np.full((count, 1), 2, np.float32)}


def test_a_session_computes_what_keras_does_in_inference_mode(network: Model) -> None:
    inputs = arrays()
    expected = network.content([inputs["tokens"], inputs["scale"]], training=False).numpy()
    with open_session(network, TARGET) as session:
        for _ in range(2):
            found = session.run(inputs)["y"]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # other fusions: a few float32 roundings


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_that_keras_wrote_are_opened(network: Model, tmp_path: Path, suffix: str) -> None:
    network.content.save(tmp_path / f"net{suffix}")
    with open_session(network, TARGET) as one, open_session(tmp_path / f"net{suffix}", TARGET) as two:
        assert (one.inputs, one.outputs) == (two.inputs, two.outputs)
        np.testing.assert_array_equal(one.run(arrays())["y"], two.run(arrays())["y"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scale": None}, "input scale is missing, found tokens"),
        ({"tokens": np.zeros((3, 5), np.int64)}, "input tokens is int32, found int64"),
        ({"more": np.zeros(3)}, "unknown input more"),
        ({"tokens": np.zeros((3, 6), np.int32)}, "Cannot feed value of shape"),
        ({"tokens": np.full((3, 5), 99, np.int32)}, r"indices\[0,0\] = 99 is not in \[0, 10\)"),
    ],
)
def test_inputs_that_do_not_fit_name_what_is_wrong(
    network: Model, change: dict[str, np.ndarray | None], reason: str
) -> None:
    inputs = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    with open_session(network, TARGET) as session, pytest.raises(EngineError, match=reason):
        session.run(inputs)


def test_a_stateful_model_goes_on_where_it_was_and_starts_anew_in_a_new_session(tmp_path: Path) -> None:
    module = tf.Module()
    module.count = tf.Variable(0.0)
    counted = tf.function(
        lambda x: {"y": x + module.count.assign_add(1.0)}, input_signature=[tf.TensorSpec([None], name="x")]
    )
    tf.saved_model.save(module, str(tmp_path / "net"), signatures={"serving_default": counted})
    zero = {"x": np.zeros(1, np.float32)}
    with open_session(tmp_path / "net", TARGET) as one, open_session(tmp_path / "net", TARGET) as two:
        assert [float(one.run(zero)["y"][0]) for _ in range(3)] == [1, 2, 3]
        assert float(two.run(zero)["y"][0]) == 1


def test_other_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"missing\.keras: no such file"):
        open_session(tmp_path / "missing.keras", TARGET)
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(EngineError, match=r"opens \.keras, \.h5 and SavedModel folders, found .*model\.bin"):
        open_session(tmp_path / "model.bin", TARGET)


def test_the_users_own_logging_is_left_alone(network: Model) -> None:
    before = (logging.root.level, logging.root.manager.disable, list(logging.root.handlers))
    with open_session(network, TARGET) as session:
        session.run(arrays())
    assert (logging.root.level, logging.root.manager.disable, list(logging.root.handlers)) == before


QUIET = """
import os, sys
import numpy as np
from tightship.core.target import Target
from tightship.engines import open_session
with open_session(__import__("pathlib").Path(sys.argv[1]), Target("tensorflow")) as session:
    session.run({spec.name: np.ones(spec.resolve(), spec.dtype) for spec in session.inputs})
assert not {"KERAS_BACKEND", "TF_OVERRIDE_GLOBAL_THREADPOOL"} & set(os.environ)
"""


def test_nothing_is_printed_and_the_environment_stays_as_it_was(network: Model, tmp_path: Path) -> None:
    network.content.save(tmp_path / "net.keras")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", QUIET, str(tmp_path / "net.keras")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
