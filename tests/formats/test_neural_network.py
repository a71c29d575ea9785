"""Inputs, outputs and damage of Core ML's neural networks: what the graph takes and gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder, flexible_shape_utils
from coremltools.proto import FeatureTypes_pb2, Model_pb2

from tests.formats.neural_network_cases import assert_close, build, normal, run
from tightship.core.graph import from_ir
from tightship.errors import InvalidModel, UnsupportedError
from tightship.formats.neural_network import read_neural_network

RELU = ("l", "RELU", "x", "y")
IMAGE = np.abs(normal(1, 3, 4, 5)) * 100


def relu(b: NeuralNetworkBuilder) -> None:
    b.add_activation(*RELU)


def described(spec: Any) -> list[tuple[str, str, tuple[Any, ...]]]:
    model = from_ir(read_neural_network(spec, "net.mlmodel"))
    return [(each.name, each.dtype, tuple(each.shape)) for each in (*model.inputs, *model.outputs)]


def image_net(color: str) -> Any:
    """Relu of an image of 4 x 5 in an older spec."""
    spec = build({"x": (1 if color == "GRAYSCALE" else 3, 4, 5)}, relu, old=True)
    image = spec.description.input[0].type.imageType
    image.height, image.width = 4, 5
    image.colorSpace = FeatureTypes_pb2.ImageFeatureType.ColorSpace.Value(color)
    return spec


def scaler(spec: Any, name: str = "x", **values: float) -> Any:
    step = spec.neuralNetwork.preprocessing.add(featureName=name)
    for field, value in values.items():
        setattr(step.scaler, field, value)
    return spec


@pytest.mark.parametrize(("old", "shape"), [(True, (6,)), (True, (3, 4, 5)), (False, (2, 5)), (False, (1, 2, 3, 4))])
def test_arrays_keep_the_shape_that_the_spec_writes(old: bool, shape: tuple[int, ...]) -> None:
    spec = build({"x": shape}, relu, old=old)
    assert described(spec) == [("x", "float32", shape), ("y", "float32", shape)]


def test_a_size_that_may_vary_is_a_named_axis() -> None:
    spec = build({"x": (1, 5, 3)}, relu)
    flexible_shape_utils.set_multiarray_ndshape_range(spec, "x", lower_bounds=[1, 2, 3], upper_bounds=[1, -1, 3])
    assert described(spec)[0] == ("x", "float32", (1, "x_1", 3))
    for size in (2, 7):
        x = normal(1, size, 3)
        assert_close(run(spec, {"x": x})["y"], np.maximum(x, 0))


def test_enumerated_shapes_vary_where_they_differ() -> None:
    spec = build({"x": (1, 5, 3)}, relu)
    flexible_shape_utils.add_multiarray_ndshape_enumeration(spec, "x", [(1, 7, 3), (1, 9, 3)])
    assert described(spec)[0] == ("x", "float32", (1, "x_1", 3))


def test_integer_inputs_and_outputs_stay_integers() -> None:
    spec = build({"x": (2, 5)}, lambda b: b.add_argmax("l", "x", "y", 1))
    for feature in (*spec.description.input, *spec.description.output):
        feature.type.multiArrayType.dataType = FeatureTypes_pb2.ArrayFeatureType.INT32
    assert [dtype for _, dtype, _ in described(spec)] == ["int32", "int32"]
    assert run(spec, {"x": np.array([[1, 9, 3, 4, 5], [5, 4, 3, 9, 1]])})["y"].tolist() == [[1], [3]]


@pytest.mark.parametrize(
    ("color", "biases"), [("RGB", [-1, -2, -3]), ("BGR", [-3, -2, -1]), ("GRAYSCALE", [-4])], ids=str
)
def test_preprocessing_of_an_image_is_part_of_the_graph(color: str, biases: list[float]) -> None:
    spec = scaler(image_net(color), channelScale=0.05, redBias=-1, greenBias=-2, blueBias=-3, grayBias=-4)
    x = IMAGE[:, : len(biases)]
    assert described(spec)[0] == ("x", "float32", x.shape)
    expected = np.maximum(x * 0.05 + np.array(biases, np.float32).reshape(-1, 1, 1), 0)
    assert_close(run(spec, {"x": x})["y"], expected[0])


def test_preprocessing_of_another_input_is_left_alone() -> None:
    spec = scaler(image_net("RGB"), name="z", channelScale=0.05)
    assert_close(run(spec, {"x": IMAGE})["y"], IMAGE[0])


def test_a_mean_image_is_subtracted() -> None:
    spec, mean = image_net("RGB"), np.abs(normal(3, 4, 5, seed=1)) * 50
    spec.neuralNetwork.preprocessing.add(featureName="x").meanImage.meanImage.extend(mean.ravel().tolist())
    assert_close(run(spec, {"x": IMAGE})["y"], np.maximum(IMAGE[0] - mean, 0))


def test_an_image_of_several_sizes_has_named_axes() -> None:
    spec = image_net("RGB")
    flexible_shape_utils.add_enumerated_image_sizes(spec, "x", [flexible_shape_utils.NeuralNetworkImageSize(8, 10)])
    assert described(spec)[0][2] == (1, 3, "x_height", "x_width")


def classifier(old: bool, named: str = "probabilities") -> Any:
    shape = (4, 1, 1) if old else (4,)
    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(*shape))], [("p", None)], mode="classifier", disable_rank5_shape_mapping=not old
    )
    if old:
        builder.add_softmax("l", "x", "p")
    else:
        builder.add_softmax_nd("l", "x", "p", -1)
    builder.set_class_labels(["ant", "bee", "cat", "dog"], prediction_blob="p")
    builder.spec.description.predictedProbabilitiesName = named
    return builder.spec


@pytest.mark.parametrize("old", [True, False])
def test_a_classifier_keeps_its_probabilities_and_leaves_its_labels(old: bool) -> None:
    spec, x = classifier(old), normal(4)
    assert [(name, shape) for name, _, shape in described(spec)][1:] == [("probabilities", (4,))]
    assert_close(run(spec, {"x": x})["probabilities"], np.exp(x) / np.exp(x).sum())


def test_a_classifier_without_a_named_blob_gives_that_of_its_last_layer() -> None:
    spec = classifier(False)
    spec.neuralNetworkClassifier.labelProbabilityLayerName = ""
    assert described(spec)[1][0] == "probabilities"


def test_an_output_may_be_an_input_and_a_constant() -> None:
    def add(b: NeuralNetworkBuilder) -> None:
        b.add_copy("l", "x", "y")
        b.add_load_constant_nd("c", "y1", np.ones(3), (3,))

    found = run(build({"x": (3,)}, add, 2), {"x": np.array([1, 2, 3])})
    assert (found["y"].tolist(), found["y1"].tolist()) == ([1, 2, 3], [1, 1, 1])


def test_a_blob_may_have_the_name_of_an_operator_of_another_layer() -> None:
    def add(b: NeuralNetworkBuilder) -> None:
        b.add_activation("l", "RELU", "x", "l/Relu")
        b.add_activation("l/Relu", "TANH", "l/Relu", "y")

    assert_close(run(build({"x": (3,)}, add), {"x": np.ones(3)})["y"], np.tanh(np.ones(3)))


def test_shape_arithmetic_of_known_shapes_leaves_no_operators() -> None:
    def add(b: NeuralNetworkBuilder) -> None:
        b.add_get_shape("s", "x", "shape")
        b.add_reverse("r", "shape", "turned", [True])
        b.add_reshape_dynamic("l", ["x", "turned"], "y")

    graph = read_neural_network(build({"x": (2, 3)}, add), "net.mlmodel").graph
    assert [node.op_type for node in graph] == ["Reshape"]


# Damage


def swapped(spec: Any) -> None:
    first, second = list(spec.neuralNetwork.layers)
    del spec.neuralNetwork.layers[:]
    spec.neuralNetwork.layers.extend([second, first])


def pair() -> Any:
    def add(b: NeuralNetworkBuilder) -> None:
        b.add_activation("first", "RELU", "x", "a")
        b.add_activation("second", "TANH", "a", "y")

    return build({"x": (3,)}, add)


def layer(spec: Any, index: int = 0) -> Any:
    return spec.neuralNetwork.layers[index]


DAMAGES = {
    "a later layer": (swapped, r"layer 'second' \(activation\): reads 'a', which only this or a later layer gives"),
    "a cycle": (lambda s: layer(s).input.__setitem__(0, "y"), "reads 'y', which only this or a later layer gives"),
    "an unknown name": (
        lambda s: layer(s).input.__setitem__(0, "q"),
        "layer 'first' .* reads 'q', which nothing gives",
    ),
    "a name given twice": (lambda s: layer(s, 1).output.__setitem__(0, "a"), "gives 'a', which there is already"),
    "no type": (lambda s: layer(s).ClearField("activation"), "layer 'first': expected a type, found none"),
    "no kind": (lambda s: layer(s).activation.Clear(), "expected a kind of activation, found none"),
    "no input": (lambda s: layer(s).ClearField("input"), "expected 1 inputs, found 0"),
    "two outputs": (lambda s: layer(s).output.append("b"), "expected 1 outputs, found 2"),
    "no such output": (lambda s: layer(s, 1).output.__setitem__(0, "b"), "output 'y': expected a layer that gives 'y'"),
    "no shape": (
        lambda s: s.description.input[0].type.multiArrayType.ClearField("shape"),
        r"input 'x': expected shapes of one rank above 0, found \[\[\]\]",
    ),
    "a negative shape": (
        lambda s: s.description.input[0].type.multiArrayType.shape.__setitem__(0, -3),
        "input 'x': expected positive sizes",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_spec_is_refused_with_one_clear_error(damage: str) -> None:
    change, message = DAMAGES[damage]
    spec = pair()
    change(spec)
    with pytest.raises(InvalidModel, match=rf"^net.mlmodel: .*{message}"):
        read_neural_network(spec, "net.mlmodel")


def test_inputs_that_do_not_fit_a_layer_are_an_invalid_model() -> None:
    def add(b: NeuralNetworkBuilder) -> None:
        b.add_add_broadcastable("sum", ["x", "z"], "y")

    with pytest.raises(InvalidModel, match="layer 'sum': Add does not take its inputs"):
        read_neural_network(build({"x": (3,), "z": (4,)}, add), "net.mlmodel")


def test_an_enormous_fill_costs_nothing_to_read() -> None:
    spec = build({"x": (3,)}, lambda b: b.add_fill_static("l", "y", (10**6, 10**6), 1.0))
    assert described(spec)[1][2] == (10**6, 10**6)


def test_another_kind_of_model_is_refused() -> None:
    spec = Model_pb2.Model()
    spec.glmRegressor.offset.append(1.0)
    with pytest.raises(UnsupportedError, match="expected a neural network, found glmRegressor"):
        read_neural_network(spec, "net.mlmodel")


def test_a_dictionary_input_is_refused() -> None:
    spec = pair()
    spec.description.input[0].type.dictionaryType.stringKeyType.SetInParent()
    with pytest.raises(UnsupportedError, match="input 'x': expected an array or an image, found dictionaryType"):
        read_neural_network(spec, "net.mlmodel")
