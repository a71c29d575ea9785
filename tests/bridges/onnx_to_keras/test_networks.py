"""Networks that torch exports, and real files, agree with ONNX Runtime after the way to Keras and through a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.bridges.onnx_to_keras.running import transposes
from tests.bridges.onnx_to_torch import networks as shared
from tightship import formats
from tightship.bridges.onnx_to_keras import to_keras
from tightship.core.model import Model
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.engines import open_session

keras = pytest.importorskip("keras")

TOLERANCE = 1e-5
"""Largest error, relative to the largest output; 1e-6 was found."""

FILES = (
    "dtln/model_1.onnx",
    "dtln/model_2.onnx",
    "fastestdet/FastestDet.onnx",
    "mlperf_tiny_alibaba_onnx/model_ad.onnx",
    "mlperf_tiny_alibaba_onnx/model_ic.onnx",
    "mlperf_tiny_alibaba_onnx/model_kws.onnx",
    "mlperf_tiny_alibaba_onnx/model_vww.onnx",
    "mnist_onnx/mnist.onnx",
    "ultraface/version-RFB-320.onnx",
    "ultraface/version-slim-320_without_postprocessing.onnx",
)


def inputs_of(model: Model, count: int = 2) -> Arrays:
    """Noise, and small numbers for what may be an index."""
    rng = np.random.default_rng(0)
    return {
        spec.name: rng.standard_normal(spec.resolve(count)).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else rng.integers(0, 20, spec.resolve(count)).astype(spec.dtype)
        for spec in model.inputs
    }


def agree(model: Model, folder: Path) -> keras.Model:
    """Check the Keras model against ONNX Runtime, and the one read back from a file against it."""
    content = to_keras(model).content
    inputs = inputs_of(model)
    with open_session(model, Target()) as session:
        wanted = session.run(inputs)
    found = content(list(inputs.values()))
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, rtol=0, atol=TOLERANCE * np.abs(array).max())
    content.save(folder / "net.keras")
    again = keras.models.load_model(folder / "net.keras")(list(inputs.values()))
    for name in wanted:
        np.testing.assert_array_equal(again[name], found[name])
    return content


@pytest.mark.parametrize("name", shared.NETWORKS)
def test_a_network_of_torch_agrees_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    content = agree(shared.exported(name), tmp_path)
    if name == "resnet":
        assert transposes(content) == 1


@pytest.mark.parametrize("file", FILES)
def test_a_real_file_agrees_with_onnx_runtime(file: str, data_dir: Path, tmp_path: Path) -> None:
    agree(formats.read(formats.recognise(str(data_dir / file))), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["series", "recommender", "decoder", "encoder", "vision", "mobile"])
def test_a_larger_network_agrees_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    from tests.bridges.onnx_to_keras import networks

    content = agree(networks.exported(name), tmp_path)
    content.export(tmp_path / "saved", verbose=False)
    assert (tmp_path / "saved" / "saved_model.pb").is_file()
