"""ONNX graphs become functional Keras models of native layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from tests import nets
from tests.bridges.onnx_to_keras.running import transposes
from tightship import formats
from tightship.bridges.onnx_to_keras import to_keras
from tightship.core import graph
from tightship.core.model import Model
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import UnsupportedError, UnsupportedOperators

keras = pytest.importorskip("keras")

TOLERANCE = 1e-5
"""Largest error, relative to the largest output: float32 sums in another order."""

RESIDUAL = """<ir_version: 9, opset_import: ["" : 20]>
residual (float[N, 3, 16, 12] image) => (float[N, 5] logits) {
    a = Conv <strides = [2, 2], pads = [3, 3, 3, 3]> (image, w1, b1)
    b = Relu (a)
    c = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (b)
    d = Conv <pads = [1, 1, 1, 1]> (c, w2)
    e = BatchNormalization (d, scale, bias, mean, variance)
    f = Add (e, c)
    g = Relu (f)
    h = Conv <pads = [1, 1, 1, 1], group = 8> (g, w3)
    i = Concat <axis = 1> (h, g)
    j = Pad (i, widths)
    k = AveragePool <kernel_shape = [2, 2]> (j)
    l = ReduceMean <keepdims = 0> (k, spatial)
    logits = Gemm <transB = 1> (l, w4, b4)
}"""

RESIDUAL_SHAPES = {
    "w1": (8, 3, 7, 7),
    "b1": (8,),
    "w2": (8, 8, 3, 3),
    "w3": (8, 1, 3, 3),
    "w4": (5, 16),
    "b4": (5,),
    "scale": (8,),
    "bias": (8,),
    "mean": (8,),
}


def residual() -> Model:
    rng = np.random.default_rng(0)
    model = parser.parse_model(RESIDUAL)
    arrays = {name: (rng.standard_normal(shape) * 0.3).astype("f") for name, shape in RESIDUAL_SHAPES.items()}
    arrays |= {"variance": np.full(8, 0.5, "f"), "spatial": np.array([2, 3]), "widths": np.array([0, 0, 1, 0] * 2)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return graph.from_bytes(model.SerializeToString())


def of(text: str, **constants: Any) -> Model:
    """A graph from ONNX text of opset 20 without its head, and constants."""
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> net {text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    return graph.from_bytes(model.SerializeToString())


def agree(model: Model, inputs: Arrays, tolerance: float = TOLERANCE) -> Any:
    """Check the Keras model against ONNX Runtime and return it."""
    converted = to_keras(model).content
    with open_session(model, Target()) as session:
        wanted = session.run(inputs)
    found = converted(inputs)
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        have = np.asarray(found[name])
        assert have.dtype == array.dtype
        np.testing.assert_allclose(have, array, rtol=0, atol=tolerance * np.abs(array).max(initial=1e-30))
    return converted


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_a_residual_network_has_one_transpose_at_the_entrance_and_none_inside() -> None:
    converted = agree(residual(), {"image": random(2, 3, 16, 12)})
    assert transposes(converted) == 1


def test_any_number_of_items_is_taken() -> None:
    model = residual()
    for count in (1, 3):
        agree(model, {"image": random(count, 3, 16, 12)})


def test_names_shapes_and_types_of_the_interface_are_kept() -> None:
    model = residual()
    converted = to_keras(model)
    assert (converted.form, converted.inputs, converted.outputs) == ("keras", model.inputs, model.outputs)
    assert converted.history[-1].name == "onnx-to-keras"


def test_weights_are_those_of_native_layers_and_can_be_trained() -> None:
    content = to_keras(residual()).content
    kinds = {type(layer).__name__ for layer in content.layers}
    assert {"Conv2D", "DepthwiseConv2D", "BatchNormalization", "Dense"} <= kinds
    content.compile("sgd", loss={"logits": "mse"})
    before = [weight.numpy() for weight in content.trainable_weights]
    content.fit(random(4, 3, 16, 12), {"logits": random(4, 5)}, epochs=1, verbose=0)
    assert all((old != new.numpy()).any() for old, new in zip(before, content.trainable_weights, strict=True))


def test_layers_are_named_after_the_nodes() -> None:
    model = of("(float[N, 4] x) => (float[N, 2] y) { y = MatMul (x, w) }", w=random(4, 2))
    next(iter(model.graph.graph)).name = "/head/MatMul"
    assert to_keras(model).content.get_layer("head_MatMul").units == 2


def test_an_input_named_like_one_of_keras_operations_is_no_clash() -> None:
    agree(of("(float[N, 4] add) => (float[N, 4] y) { a = Add (add, add) y = Mul (a, add) }"), {"add": random(2, 4)})


def test_the_batch_goes_through_shape_arithmetic() -> None:
    text = """(float[N, 3, 4] x) => (float[N, 12] y, float[N, 1, 2] z) {
        s = Shape <start = 0, end = 1> (x)
        t = Concat <axis = 0> (s, rest)
        y = Reshape (x, t)
        u = Concat <axis = 0> (s, one)
        z = Expand (token, u)
    }"""
    model = of(text, rest=np.array([12]), one=np.array([1, 2]), token=random(1, 1, 2))
    agree(model, {"x": random(5, 3, 4)})


def test_two_free_axes_go_through_a_reshape() -> None:
    text = """(float[N, S, 6] x) => (float[N, S, 2, 3] y) {
        s = Shape <start = 0, end = 2> (x)
        t = Concat <axis = 0> (s, heads)
        y = Reshape (x, t)
    }"""
    agree(of(text, heads=np.array([2, 3])), {"x": random(2, 7, 6)})


def test_a_channel_shuffle_costs_one_transpose() -> None:
    text = """(float[N, 4, 5, 6] x) => (float[N, 4] y) {
        a = Conv (x, w)
        b = Reshape (a, split)
        c = Transpose <perm = [0, 2, 1, 3, 4]> (b)
        d = Reshape (c, join)
        e = Conv (d, w)
        y = ReduceMax <keepdims = 0> (e, spatial)
    }"""
    constants = {"split": np.array([-1, 2, 2, 5, 6]), "join": np.array([-1, 4, 5, 6]), "spatial": np.array([2, 3])}
    converted = agree(of(text, w=random(4, 4, 1, 1), **constants), {"x": random(2, 4, 5, 6)})
    assert transposes(converted) == 2  # one at the entrance, one for the shuffle itself


def test_a_channels_last_graph_needs_no_transpose_at_all() -> None:
    text = """(float[N, 5, 6, 4] x) => (float[N, 5, 6, 3] y) {
        a = Transpose <perm = [0, 3, 1, 2]> (x)
        b = Conv <pads = [1, 1, 1, 1]> (a, w)
        y = Transpose <perm = [0, 2, 3, 1]> (b)
    }"""
    assert transposes(agree(of(text, w=random(3, 4, 3, 3)), {"x": random(2, 5, 6, 4)})) == 0


@pytest.mark.parametrize("shape", [(1, 4, 1), (4, 1)])
def test_a_vector_is_added_along_its_own_axis_although_keras_takes_it_for_a_bias(shape: tuple[int, ...]) -> None:
    # keras.ops.add of Keras 3.15 on TensorFlow: [2, 4, 4] + [1, 4, 1] adds along the last axis.
    agree(of("(float[2, 4, 4] x) => (float[2, 4, 4] y) { y = Add (x, b) }", b=random(*shape)), {"x": random(2, 4, 4)})


def test_position_embeddings_are_weights_and_not_text() -> None:
    content = to_keras(of("(float[N, 50, 8] x) => (float[N, 50, 8] y) { y = Add (x, p) }", p=random(1, 50, 8))).content
    assert sum(weight.numpy().size for weight in content.trainable_weights) == 400


def test_an_lstm_becomes_keras_own() -> None:
    model = graph.from_bytes(nets.lstm_net().SerializeToString())
    converted = agree(model, {"x": random(3, 12, 32)})
    assert [layer.units for layer in converted.layers if isinstance(layer, keras.layers.LSTM)] == [48]
    assert transposes(converted) == 0


def test_an_output_that_is_an_input_or_another_output_keeps_its_name() -> None:
    text = """(float[N, 2] x) => (float[N, 2] a, float[N, 2] b, float[N, 2] c) {
        a = Identity (x)
        b = Neg (x)
        c = Identity (b)
    }"""
    agree(of(text), {"x": random(2, 2)})


def test_all_unsupported_nodes_are_reported_at_once_with_their_reasons() -> None:
    text = """(float[N, 4] x) => (float y, float[?, ?] z) {
        [first] a = NonZero (x)
        [second] b = NonZero (x)
        c = Cast <to = 1> (a)
        [third] y = Det (c)
        [fourth] z = RandomNormalLike (x)
    }"""
    with pytest.raises(UnsupportedOperators) as caught:
        to_keras(of(text))
    message = str(caught.value)
    assert "2 operators" in message
    assert "NonZero (nodes first, second): how many elements its result has depends on data" in message
    assert "RandomNormalLike (node fourth): it is random" in message
    assert "onnxruntime" in message


def test_an_unknown_operator_is_told_with_the_nearest_known_one() -> None:
    model = of("(float[N, 4] x) => (float[N, 4] y) { y = Sigmoidd (x) }")
    with pytest.raises(UnsupportedOperators, match=r"Sigmoidd .*did you mean 'Sigmoid'"):
        to_keras(model)


def test_a_type_that_keras_lacks_is_refused_by_the_input_that_has_it() -> None:
    with pytest.raises(UnsupportedError, match=r"input x: Keras has no element type string"):
        to_keras(of("(string[N] x) => (string[N] y) { y = Identity (x) }"))


def test_a_constant_that_would_be_enormous_is_refused() -> None:
    model = of(
        "(float[N, 1] x) => (float[?, ?] y) { a = ConstantOfShape (s) y = Add (a, x) }", s=np.array([2**17, 2**12])
    )
    with pytest.raises(UnsupportedOperators, match="ConstantOfShape"):
        to_keras(model)


def test_the_source_graph_stays_as_it_was() -> None:
    model = residual()
    before = graph.to_bytes(model)
    to_keras(model)
    assert graph.to_bytes(model) == before


def test_a_saved_model_loads_without_tightship_and_gives_equal_numbers(tmp_path: Path) -> None:
    x = random(2, 3, 16, 12)
    content = to_keras(residual()).content
    content.save(tmp_path / "net.keras")
    np.savez(tmp_path / "data.npz", x=x, y=np.asarray(content(x)["logits"]))
    code = (
        "import sys; sys.modules['tightship'] = None\n"
        "import keras, numpy as np; data = np.load('data.npz')\n"
        "found = keras.models.load_model('net.keras')(data['x'])['logits']\n"
        "sys.exit(0 if np.array_equal(found, data['y']) else 7)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0


def test_a_saved_model_folder_serves_the_same_names(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    x = random(2, 3, 16, 12)
    content = to_keras(residual()).content
    content.export(tmp_path / "saved", verbose=False)
    found = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"](image=tf.constant(x))
    np.testing.assert_allclose(found["logits"], content(x)["logits"], rtol=0, atol=1e-5)


def test_importing_the_bridge_imports_no_keras() -> None:
    code = (
        "import sys, tightship.bridges.onnx_to_keras; sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_models_of_old_opsets_keep_their_meaning() -> None:
    text = """<ir_version: 3, opset_import: ["" : 7]>
    old (float[2, 3, 4] x) => (float[2, 3, 4] y, float[2, 3, 4] z) {
        y = Softmax <axis = 1> (x)
        z = Dropout <ratio = 0.3> (x)
    }"""
    model = graph.from_bytes(parser.parse_model(text).SerializeToString())
    found = to_keras(model).content({"x": random(2, 3, 4)})
    wanted = np.exp(random(2, 3, 4)) / np.exp(random(2, 3, 4)).sum((1, 2), keepdims=True)
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-5)
    np.testing.assert_array_equal(found["z"], random(2, 3, 4))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(("group", "strides"), [(4, [2, 2]), (4, [1, 2]), (2, [1, 1])])
def test_a_kernel_that_is_computed_comes_back_from_a_file(
    suffix: str, group: int, strides: list[int], tmp_path: Path
) -> None:
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 20]>
        net (float[N, 4, 6, 5] x) => (float[N, 4, H, W] y) <float[4] scale = {{0.5, 0.25, 1.5, 2}}> {{
            w = DequantizeLinear <axis = 0> (codes, scale)
            y = Conv <group = {group}, strides = [{strides[0]}, {strides[1]}]> (x, w)
        }}"""
    )
    codes = np.random.default_rng(0).integers(-9, 9, (4, 4 // group, 3, 3), np.int8)
    model.graph.initializer.append(numpy_helper.from_array(codes, "codes"))
    source = graph.from_bytes(model.SerializeToString())
    formats.write(to_keras(source), tmp_path / f"net{suffix}")
    image = np.random.default_rng(1).standard_normal((3, 4, 6, 5), np.float32)
    with open_session(source, Target()) as session:
        [expected] = session.run({"x": image}).values()
    with open_session(tmp_path / f"net{suffix}", Target("tensorflow")) as session:
        [found] = session.run({"x": image}).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
