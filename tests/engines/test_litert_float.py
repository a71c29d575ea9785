"""What LiteRT rounds by itself, and what a file says without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tightship import engines
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.core.torch_module import from_torch
from tightship.engines.litert_float import with_float_weights
from tightship.formats.tflite import TfLite

pytest.importorskip("litert_torch", reason="needs the litert extra")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network as `float32.tflite` and, with weights of 8 bits, as `int8.tflite`."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8)).eval()
    place = tmp_path_factory.mktemp("tflite")
    for precision in ("float32", "int8"):
        TfLite(precision).write(from_torch(network, (torch.zeros(1, 64),)), place / f"{precision}.tflite")
    return place


def run(path: Path, exact: bool) -> np.ndarray:
    inputs = np.random.default_rng(1).standard_normal((1, 64), np.float32)
    with engines.open_session(path, Target("litert", exact=exact)) as session:
        [found] = session.run({session.inputs[0].name: inputs}).values()
    return found


def test_a_float_file_is_left_as_it_is(folder: Path) -> None:
    data = (folder / "float32.tflite").read_bytes()
    assert with_float_weights(data) is data


def test_exact_computes_with_the_weights_that_the_file_holds(folder: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    data = (folder / "int8.tflite").read_bytes()
    content = schema.ModelT.InitFromPackedBuf(with_float_weights(data))
    tensors = {tensor.name: tensor for tensor in content.subgraphs[0].tensors}
    widened = [name for name in tensors if name.endswith(b"_float")]
    stored = {tensor.name: tensor for tensor in schema.ModelT.InitFromPackedBuf(data).subgraphs[0].tensors}
    layers: Arrays = {}
    for name in widened:
        tensor = stored[name.removesuffix(b"_float")]
        codes = np.asarray(schema.ModelT.InitFromPackedBuf(data).buffers[tensor.buffer].data, np.uint8).view(np.int8)
        layers[name.decode()] = codes.reshape(tensor.shape) * np.float32(tensor.quantization.scale)[:, None]
    assert [layer.shape for layer in layers.values()] == [(128, 64), (8, 128)]
    network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8)).eval()
    torch.manual_seed(0)
    original = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8)).eval()
    network.load_state_dict(original.state_dict())
    with torch.no_grad():
        for layer, weight in zip((network[0], network[2]), layers.values(), strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
        inputs = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 64), np.float32))
        expected = network(inputs).numpy()
    np.testing.assert_allclose(run(folder / "int8.tflite", exact=True), expected, rtol=0, atol=1e-6)


def test_by_default_litert_rounds_what_these_products_read(folder: Path) -> None:
    rounded = np.abs(run(folder / "int8.tflite", exact=False) - run(folder / "int8.tflite", exact=True)).max()
    assert 1e-4 < rounded < 0.1


def test_a_file_of_the_makers_is_proven_to_rounding(data_dir: Path, tmp_path: Path) -> None:
    import tightship as ts

    pytest.importorskip("tf2onnx", reason="needs the tensorflow extra")
    source = data_dir / "mlperf_tiny" / "kws_ref_model_float32.tflite"
    evidence = ts.convert(source, tmp_path / "kws.onnx")
    assert evidence.rtol == 1e-3 and evidence.proven
    assert any("run by default, litert and onnxruntime differ by" in note for note in evidence.notes)
