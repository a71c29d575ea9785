"""A graph with ranges of 8 bits becomes a TFLite file of integer operators with the same ranges and codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tightship import bridges, formats
from tightship.core.dataset import Dataset
from tightship.core.graph import from_bytes
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.formats.tflite import TfLite
from tightship.passes.int8_static import Int8Static

pytest.importorskip("tensorflow")
litert = pytest.importorskip("ai_edge_litert.interpreter")

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(16, 3, 8, 8)).astype(np.float32)

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch, 3, 8, 8] x) => (float[batch, 5] y) {
    c = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    r = Relu(c)
    d = Conv<group = 8, pads = [1, 1, 1, 1]>(r, w2, b2)
    e = Relu(d)
    a = Add(r, e)
    p = AveragePool<kernel_shape = [8, 8]>(a)
    f = Flatten(p)
    y = Gemm(f, w3, b3)
}"""
SIZES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (8, 5), "b3": (5,)}


@pytest.fixture(scope="module")
def quantized() -> Model:
    model = onnx.parser.parse_model(NET)
    for name, size in SIZES.items():
        array = RANDOM.normal(scale=0.4, size=size).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    data = Dataset.from_arrays("calibration", "0", {"x": X})
    return Int8Static(weight_bits=8).apply(from_bytes(model.SerializeToString()), data).model


@pytest.fixture(scope="module")
def keras_model(quantized: Model) -> Model:
    return bridges.route(quantized, "keras")


@pytest.fixture(scope="module")
def written(keras_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tflite") / "net.tflite"
    TfLite().write(keras_model, path)
    return path


def scales(quantized: Model) -> set[float]:
    """Those of activations, which each tensor has one of."""
    nodes = [node for node in quantized.graph.graph if node.op_type == "QuantizeLinear"]
    return {round(float(node.inputs[1].const_value.numpy()), 8) for node in nodes}


def test_a_pair_that_rounds_and_widens_becomes_one_operation_that_can_be_trained(keras_model: Model) -> None:
    kinds = [type(operation).__name__ for operation in keras_model.content.operations]
    assert kinds.count("FakeQuantWithMinMaxVars") >= 4
    assert not {"Round", "Clip"} & set(kinds)
    assert {"Conv2D", "DepthwiseConv2D", "Dense"} <= set(kinds)


def test_what_lies_between_two_ranges_is_computed_in_integers_with_them(quantized: Model, written: Path) -> None:
    interpreter = litert.Interpreter(str(written))
    interpreter.allocate_tensors()
    tensors = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    kinds = {
        operation["op_name"]: {tensors[index]["dtype"] for index in operation["outputs"]}
        for operation in interpreter._get_ops_details()
        if operation["op_name"] != "DELEGATE"
    }
    assert all(kinds[name] == {np.int8} for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN"))
    found = {
        round(float(entry["quantization_parameters"]["scales"][0]), 8)
        for entry in tensors.values()
        if entry["dtype"] is np.int8 and len(entry["quantization_parameters"]["scales"]) == 1
    }
    assert found <= scales(quantized)
    assert len(found) >= 4


def test_it_computes_what_the_graph_does_within_steps_of_its_ranges(quantized: Model, written: Path) -> None:
    with open_session(quantized, Target(exact=True)) as theirs, open_session(written, Target("litert")) as ours:
        name = ours.inputs[0].name
        wanted = theirs.run({"x": X})["y"]
        found = np.concatenate([ours.run({name: X[index : index + 1]})["y"] for index in range(len(X))])
    # Each of 3 roundings is off by one step now and then; the last product adds up 8 such inputs.
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()


def test_the_keras_model_is_one_that_keras_alone_loads(keras_model: Model, tmp_path: Path) -> None:
    formats.write(keras_model, tmp_path / "net.keras")
    again = formats.read(formats.recognise(str(tmp_path / "net.keras")))
    with open_session(keras_model, Target("tensorflow")) as before, open_session(again, Target("tensorflow")) as after:
        np.testing.assert_array_equal(before.run({"x": X})["y"], after.run({"x": X})["y"])
