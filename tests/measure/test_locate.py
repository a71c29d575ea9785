"""Faults planted in one operator are found there, and named with what was planted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import numpy_helper

from tightship import formats
from tightship.core import graph
from tightship.core.dataset import Dataset
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.measure import locate
from tightship.measure.generate import generate
from tightship.measure.locate import Difference, first_difference
from tightship.measure.matching import match_values

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'

NET = """
net (float[n, 3, 8, 8] x) => (float[n, 5] y) {
  [conv1] a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
  [norm] b = BatchNormalization<epsilon = 0.00001>(a, scale, shift, mean, variance)
  [act] c = Relu(b)
  [conv2] d = Conv(c, w2)
  [swap] e = Transpose<perm = [0, 2, 3, 1]>(d)
  [flat] f = Flatten(e)
  [fc] g = Gemm<transB = 1>(f, w3)
  [soft] y = Softmax(g)
}
"""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    return {
        "w1": normal(4, 3, 3, 3), "b1": normal(4), "scale": normal(4), "shift": normal(4), "mean": normal(4),
        "variance": np.float32([0.01, 0.02, 0.03, 0.04]), "w2": normal(4, 4, 3, 3), "w3": normal(5, 4 * 36) / 100,
    }  # fmt: skip


def proto(text: str = NET, **changed: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in {**weights(), **changed}.items()
    )
    return model


def net(text: str = NET, **changed: np.ndarray) -> Model:
    return graph.from_bytes(proto(text, **changed).SerializeToString())


def found(first: Model, second: Model, **options: float) -> Difference | None:
    dataset = Dataset.from_arrays("test", "0", {first.inputs[0].name: normal(6, 3, 8, 8)})
    return first_difference(first, second, Target(), Target(), dataset, **options)  # type: ignore[arg-type]


def test_equal_models_have_no_difference() -> None:
    assert found(net(), net()) is None


def test_a_changed_weight_is_found_where_it_is_used() -> None:
    changed = weights()["w2"]
    changed[1, 2, 0, 0] += 0.5
    difference = found(net(), net(w2=changed))
    assert difference is not None
    assert (difference.operator, difference.op_type, difference.tensor) == ("conv2", "Conv", "d")
    assert difference.cause.startswith("weight 'w2' is off by 0.5")
    assert difference.error > 1


def test_a_transposed_weight_is_called_that() -> None:
    difference = found(net(), net(w2=weights()["w2"].transpose(1, 0, 2, 3).copy()))
    assert difference is not None
    assert difference.operator == "conv2"
    assert difference.cause == "weight 'w2' is the expected one with axes in the order [1, 0, 2, 3]"


def test_another_epsilon_is_told_with_both_values() -> None:
    difference = found(net(), net(NET.replace("0.00001", "0.001")))
    assert difference is not None
    assert difference.operator == "norm"
    assert difference.cause == "attribute epsilon is 0.001, expected 1e-05"


def test_a_default_that_is_written_out_is_no_cause() -> None:
    first, second = net(NET.replace("<epsilon = 0.00001>", "")), net(b1=weights()["b1"] + 1)
    difference = found(first, second)
    assert difference is not None
    assert (difference.operator, difference.cause) == ("conv1", "weight 'b1' is off by 1, of 0.64")


def test_another_attribute_is_told_with_both_values() -> None:
    difference = found(net(), net(NET.replace("Softmax(g)", "Softmax<axis = 0>(g)")))
    assert difference is not None
    assert (difference.operator, difference.cause) == ("soft", "attribute axis is 0, expected -1")


def test_a_layout_that_was_not_turned_is_called_that() -> None:
    difference = found(net(), net(NET.replace("[0, 2, 3, 1]", "[0, 3, 2, 1]")))
    assert difference is not None
    assert difference.operator == "swap"
    assert "perm" in difference.cause


def test_a_result_with_its_axes_in_another_order_is_called_that() -> None:
    """The same weights and attributes, but the input was turned by an operator that the first graph does not have."""
    turned = NET.replace("Relu(b)", "Relu(t)").replace("[act]", "[turn] t = Transpose<perm = [0, 1, 3, 2]>(b)\n [act]")
    difference = found(net(), net(turned))
    assert difference is not None
    assert (difference.operator, difference.suspects) == ("act", ("turn",))
    assert difference.cause == "the result is the expected one with axes in the order [0, 1, 3, 2]"


def test_a_difference_reads_as_a_sentence() -> None:
    turned = NET.replace("Relu(b)", "Relu(t)").replace("[act]", "[turn] t = Transpose<perm = [0, 1, 3, 2]>(b)\n [act]")
    text = str(found(net(), net(turned)))
    assert text.startswith("Relu 'act' (tensor 'c'): off by ")
    assert text.endswith("in the order [0, 1, 3, 2]; or one of those before it that have no counterpart: turn")


def test_an_overflow_of_float16_is_called_that() -> None:
    """The convolution is the last operator: before others ONNX Runtime, which has no such kernel, stays in float32."""
    large = weights()["w1"] * np.float32(1e4)
    ending = "y = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) }"
    whole = net("g (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y) { [conv] " + ending, w1=large)
    start = "g (float[n, 3, 8, 8] x) => (float16[n, 4, 8, 8] y) { h = Cast<to = 10>(x)  [conv] "
    half = net(start + ending.replace("(x", "(h"), w1=large.astype(np.float16), b1=weights()["b1"].astype(np.float16))
    difference = found(whole, half)
    assert difference is not None
    assert (difference.operator, difference.finding) == ("conv", "infinity in other places")
    assert re.match(r"it overflows where the first model reaches \d.*, beyond the 65504 of float16", difference.cause)


def test_another_operator_is_told_with_both_types() -> None:
    difference = found(net(), net(NET.replace("Softmax(g)", "LogSoftmax(g)")))
    assert difference is not None
    assert (difference.operator, difference.cause) == ("soft", "it is a LogSoftmax, expected Softmax (soft)")


def test_another_shape_is_told() -> None:
    difference = found(
        net(), net(NET.replace("pads = [1, 1, 1, 1]", "pads = [0, 0, 0, 0]").replace("w2)", "w2)"), w3=normal(5, 64))
    )
    assert difference is not None
    assert difference.operator == "conv1"
    assert "shape" in difference.finding


def test_a_tensor_that_means_something_else_but_changes_no_output_is_not_named() -> None:
    """Folding the normalization into the convolution may keep the names: then `a` is what `b` was."""
    factor = weights()["scale"] / np.sqrt(weights()["variance"] + np.float32(1e-5))
    folded = NET.replace("  [norm] b = BatchNormalization<epsilon = 0.00001>(a, scale, shift, mean, variance)\n", "")
    w1 = weights()["w1"] * factor[:, None, None, None]
    b1 = (weights()["b1"] - weights()["mean"]) * factor + weights()["shift"]
    text = folded.replace("Relu(b)", "Relu(a)")
    assert found(net(), net(text, w1=w1, b1=b1)) is None
    difference = found(net(), net(text, w1=w1, b1=b1, w3=weights()["w3"] * 2))
    assert difference is not None
    assert difference.operator == "fc"


def test_the_first_of_two_faults_is_named() -> None:
    difference = found(net(), net(b1=weights()["b1"] + 1, w3=weights()["w3"] * 2))
    assert difference is not None
    assert difference.operator == "conv1"


def test_a_fault_is_found_where_all_names_differ() -> None:
    other = re.sub(r"\b([a-g])\b(?! *\[)", r"v\1", NET)
    other = other.replace("[conv2]", "[layer_2]")
    difference = found(net(), net(other, w2=weights()["w2"] * 2))
    assert difference is not None
    assert (difference.operator, difference.expected, difference.tensor) == ("layer_2", "conv2", "vd")


def test_parallel_branches_are_matched_in_their_order() -> None:
    text = (
        "g (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) {{ {0}a = Mul(x, p)  {0}b = Mul(x, q)  y = Add({0}a, {0}b) }}"
    )
    first, second = (net(text.format(prefix), p=np.float32([2]), q=np.float32([3])) for prefix in ("", "z"))
    assert found(first, second) is None
    assert {value.name: other.name for value, other in match_values(first, second).items()} == {
        "za": "a",
        "zb": "b",
        "y": "y",
    }


def test_a_fused_operator_is_compared_by_its_output() -> None:
    """Conv and Relu of the first are one operator in the second."""
    body = "[conv] t = Conv<pads = [1,1,1,1]>(x, w1, b1)  [act] y = Relu(t)"
    text = f"g (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y) {{ {body} }}"
    fused = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
        "g (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y) "
        '{ [fused] y = com.microsoft.FusedConv<pads = [1,1,1,1], activation = "Relu">(x, w1, b1) }'
    )
    fused.graph.initializer.extend(proto(b1=weights()["b1"] + 1).graph.initializer[:2])
    difference = found(net(text), graph.from_bytes(fused.SerializeToString()))
    assert difference is not None
    assert (difference.operator, difference.expected) == ("fused", "act")


def test_chunks_of_one_tensor_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = weights()["w3"] * 2
    whole = found(net(), net(w3=changed))
    monkeypatch.setattr(locate, "_CHUNK_ELEMENTS", 1)
    one_by_one = found(net(), net(w3=changed))
    assert whole is not None and one_by_one is not None
    assert (one_by_one.operator, one_by_one.cause) == (whole.operator, whole.cause)


def test_a_tolerance_that_allows_the_fault_finds_nothing() -> None:
    assert found(net(), net(w2=weights()["w2"] * np.float32(1.001))) is not None
    assert found(net(), net(w2=weights()["w2"] * np.float32(1.001)), rtol=0.1) is None


def test_the_models_are_not_changed() -> None:
    first, second = net(), net(b1=weights()["b1"] + 1)
    before = onnx_ir.to_proto(first.graph).SerializeToString(deterministic=True)
    found(first, second)
    assert onnx_ir.to_proto(first.graph).SerializeToString(deterministic=True) == before
    assert [value.name for value in second.graph.graph.outputs] == ["y"]


def _scale_weight(model: onnx.ModelProto, name: str) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), name))


@pytest.mark.parametrize(
    ("model", "operator"), [("mlperf_tiny_alibaba_onnx/model_kws.onnx", 3), ("dtln/model_2.onnx", 4)]
)
def test_a_fault_in_a_real_model_is_found(data_dir: Path, model: str, operator: int) -> None:
    content = onnx.load(data_dir / model)
    names = {tensor.name for tensor in content.graph.initializer}
    weighted = [node for node in content.graph.node if node.op_type in ("Conv", "MatMul") and names & set(node.input)]
    node = weighted[operator]
    source = graph.from_bytes(content.SerializeToString())
    _scale_weight(content, next(name for name in node.input if name in names))
    difference = first_difference(
        source, graph.from_bytes(content.SerializeToString()), Target(), Target(), generate(source, 4, 0)
    )
    assert difference is not None
    assert difference.operator == node.name
    assert "weight" in difference.cause


def test_two_engines_part_nowhere_on_a_real_model(data_dir: Path) -> None:
    pytest.importorskip("openvino")
    source = formats.read(formats.recognise(str(data_dir / "mlperf_tiny_alibaba_onnx" / "model_ic.onnx")))
    assert first_difference(source, source, Target(), Target("openvino"), generate(source, 4, 0)) is None
