"""ONNX files are written weight by weight, and are what they would be if they were written at once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

from tests import nets
from tightship import formats
from tightship.core.graph import from_bytes, from_ir, to_bytes
from tightship.core.model import Model
from tightship.errors import InvalidModel
from tightship.formats import onnx as onnx_format

N_WEIGHTS, WEIGHT_BYTES = 8, 2**23


def lazy_model(read: Callable[[], np.ndarray]) -> Model:
    """y = x + w0 + w1 + ..., each weight computed when it is touched."""
    shape, kind = onnx_ir.Shape([WEIGHT_BYTES // 4]), onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    x = onnx_ir.Value(name="x", shape=shape, type=kind)
    value, nodes, weights = x, [], []
    for index in range(N_WEIGHTS):
        name = f"w{index}"
        tensor = onnx_ir.LazyTensor(lambda: onnx_ir.Tensor(read()), onnx_ir.DataType.FLOAT, shape, name=name)
        weights.append(onnx_ir.Value(name=name, shape=shape, type=kind, const_value=tensor))
        nodes.append(onnx_ir.node("Add", [value, weights[-1]]))
        value = nodes[-1].outputs[0]
    value.name, value.shape, value.type = "y", shape, kind
    graph = onnx_ir.Graph([x], [value], nodes=nodes, initializers=weights, opset_imports={"": 21}, name="sum")
    return from_ir(onnx_ir.Model(graph, ir_version=10))


@pytest.mark.parametrize("net", [nets.conv_net, nets.lstm_net])
def test_the_file_is_byte_for_byte_what_protobuf_writes(net: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    model = from_bytes(net().SerializeToString())
    formats.write(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == to_bytes(model)


def test_weights_of_every_type_come_back_bit_by_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT32", "INT64", "BOOL", "INT4", "UINT4"]
    weights = []
    for name in [*names, "FLOAT8E4M3FN"]:
        kind = onnx_ir.DataType[name]
        array = rng.integers(0, 2 if name == "BOOL" else 7, (33, 77)).astype(kind.numpy())
        tensor = onnx_ir.Tensor(array.T, dtype=kind, name=name)  # columns first: not as it lies in the file
        weights.append(onnx_ir.Value(name=name, shape=tensor.shape, type=onnx_ir.TensorType(kind), const_value=tensor))
    nodes = [onnx_ir.node("Identity", [weight]) for weight in weights]
    outputs = [node.outputs[0] for node in nodes]
    for weight, output in zip(weights, outputs, strict=True):
        output.name, output.shape, output.type = f"out_{weight.name}", weight.shape, weight.type
    graph = onnx_ir.Graph([], outputs, nodes=nodes, initializers=weights, opset_imports={"": 21}, name="types")
    model = from_ir(onnx_ir.Model(graph, ir_version=10))
    formats.write(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == to_bytes(model)
    found = onnx_ir.load(tmp_path / "model.onnx").graph.initializers
    for weight in weights:
        assert found[weight.name].const_value.tobytes() == weight.const_value.tobytes(), weight.name


@pytest.mark.parametrize("outside", [False, True], ids=["one file", "external data"])
def test_no_more_than_one_weight_is_in_memory(outside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if outside:
        monkeypatch.setattr(onnx_format.graph, "MAX_PROTOBUF_BYTES", 2**20)
    model = lazy_model(lambda: np.ones(WEIGHT_BYTES // 4, np.float32))
    tracemalloc.start()
    artifact = formats.write(model, tmp_path / "model.onnx")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert artifact.size_bytes > N_WEIGHTS * WEIGHT_BYTES
    assert bool(artifact.companions) == outside
    assert peak < 1.5 * WEIGHT_BYTES
    read = formats.read(artifact).graph.graph.initializers
    assert all((read[f"w{index}"].const_value.numpy() == 1).all() for index in range(N_WEIGHTS))


def test_external_data_becomes_part_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lazy_model(lambda: np.arange(WEIGHT_BYTES // 4, dtype=np.float32))
    with monkeypatch.context() as patched:
        patched.setattr(onnx_format.graph, "MAX_PROTOBUF_BYTES", 2**20)
        apart = formats.write(model, tmp_path / "apart.onnx")
    together = formats.write(formats.read(apart), tmp_path / "together.onnx")
    assert apart.companions
    assert not together.companions
    assert together.path.read_bytes() == to_bytes(model)


def test_a_weight_of_another_size_than_it_says_leaves_nothing_behind(tmp_path: Path) -> None:
    model = lazy_model(lambda: np.ones(WEIGHT_BYTES // 4 - 1, np.float32))
    with pytest.raises(InvalidModel, match="weight 'w0': expected 8388608 bytes, found 8388604"):
        formats.write(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
