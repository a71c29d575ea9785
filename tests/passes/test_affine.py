"""Products and sums per channel behind a convolution go into it."""

import numpy as np
import onnx
import onnxruntime
import pytest

from tightship.core.graph import from_bytes, to_bytes
from tightship.core.model import Model
from tightship.passes.simplify import Simplify

RANDOM = np.random.default_rng(0)


def net(steps: str, shape: str = "4, 1, 1", bias: bool = True) -> Model:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[batch, 3, 6, 6] x) => (float[batch, 4, 4, 4] y) {{
        c = Conv(x, w{", b" if bias else ""})
        {steps}
    }}"""
    model = onnx.parser.parse_model(text)
    sizes = {"w": (4, 3, 3, 3), "b": (4,), "s": tuple(map(int, shape.split(","))), "t": (1, 4, 1, 1)}
    used = {name for node in model.graph.node for name in node.input}
    for name in sizes.keys() & used:
        array = RANDOM.normal(size=sizes[name]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return from_bytes(model.SerializeToString())


def run(model: Model) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)
    return session.run(["y"], {"x": x})[0]


def operators(model: Model) -> list[str]:
    return [node.op_type for node in model.graph.graph]


@pytest.mark.parametrize("shape", ["4, 1, 1", "1, 4, 1, 1", "1"])
def test_a_product_and_a_sum_go_into_the_convolution_before(shape: str) -> None:
    model = net("m = Mul(c, s)  y = Add(m, t)", shape)
    simple = Simplify().apply(model).model
    assert operators(simple) == ["Conv"]
    assert [spec.name for spec in simple.outputs] == ["y"]
    np.testing.assert_allclose(run(simple), run(model), rtol=1e-5, atol=1e-5)


def test_a_convolution_without_a_bias_takes_the_product() -> None:
    model = net("y = Mul(s, c)", bias=False)
    simple = Simplify().apply(model).model
    assert operators(simple) == ["Conv"]
    np.testing.assert_allclose(run(simple), run(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        ("y = Mul(c, s)", "4, 1, 4"),
        ("m = Mul(c, s)  y = Add(m, c)", "4, 1, 1"),
        ("m = Relu(c)  y = Mul(m, s)", "4, 1, 1"),
    ],
    ids=["not per channel", "read twice", "behind a Relu"],
)
def test_what_is_not_linear_per_channel_stays(steps: str, shape: str) -> None:
    model = net(steps, shape)
    simple = Simplify().apply(model).model
    assert "Mul" in operators(simple)
    np.testing.assert_allclose(run(simple), run(model), rtol=1e-5, atol=1e-5)
