"""Older opsets: what an operator was, and what has no form there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tightship.core import graph
from tightship.core.model import Model
from tightship.core.opset import at_opset
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import UnsupportedOperators

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


def net(body: str, opset: int = 20, constants: str = "") -> Model:
    signature = f"net (float[2, 3, 4] x) => (float[a, b, c] y) {constants}"
    text = f'<ir_version: 9, opset_import: ["" : {opset}]> {signature} {{{body}}}'
    return graph.from_bytes(onnx.parser.parse_model(text).SerializeToString())


def ran(model: Model) -> np.ndarray:
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(model)))
    with open_session(model, Target(threads=1)) as session:
        return session.run({"x": X})["y"]


@pytest.mark.parametrize(
    ("body", "constants", "opset"),
    [
        ("y = ReduceMean <keepdims = 1> (x, axes)", "<int64[1] axes = {1}>", 13),
        ("y = ReduceSum <keepdims = 1> (x, axes)", "<int64[1] axes = {2}>", 12),
        ("y = Clip (x, low, high)", "<float low = {-0.5}, float high = {0.5}>", 10),
        ("y = Pad (x, pads, value)", "<int64[6] pads = {0, 1, 0, 0, 0, 2}, float value = {3.0}>", 10),
        ("a = Unsqueeze (x, axes) y = Squeeze (a, axes)", "<int64[1] axes = {1}>", 11),
        ("y = Slice (x, starts, ends, axes)", "<int64[1] starts = {1}, int64[1] ends = {3}, int64[1] axes = {2}>", 9),
        (
            "y = Slice (x, starts, ends, axes, steps)",
            "<int64[1] starts = {1}, int64[1] ends = {3}, int64[1] axes = {2}, int64[1] steps = {1}>",
            9,
        ),
        ("a, b = Split <axis = 2, num_outputs = 2> (x) y = Concat <axis = 2> (b, a)", "", 18),
        ("a, b = Split <axis = 2> (x, parts) y = Concat <axis = 2> (b, a)", "<int64[2] parts = {1, 3}>", 11),
        ("y = Softmax <axis = -1> (x)", "", 13),
        ("y = Relu (x)", "", 7),
    ],
)
def test_an_operator_computes_the_same_at_an_older_opset(body: str, constants: str, opset: int) -> None:
    model = net(body, constants=constants)
    older = at_opset(model, opset)
    assert older.graph.opset_imports[""] == opset
    np.testing.assert_array_equal(ran(older), ran(model))


def test_all_operators_without_a_form_are_named_at_once() -> None:
    model = net("a = Gelu (x) [second] b = HardSwish (a) y = Relu (b)")
    with pytest.raises(UnsupportedOperators, match=r"Gelu 'a': it came with opset 20; HardSwish 'second'"):
        at_opset(model, 13)


def test_a_computed_attribute_has_no_form() -> None:
    model = net(
        "s = Shape (x) e = Slice (s, one, two) y = ReduceMean (x, e)",
        constants="<int64[1] one = {0}, int64[1] two = {1}>",
    )
    with pytest.raises(UnsupportedOperators, match="axes was an attribute, and is computed here"):
        at_opset(model, 13)


def test_a_newer_opset_computes_the_same() -> None:
    model = net("y = Softmax <axis = 2> (x)", opset=11)
    np.testing.assert_allclose(ran(at_opset(model, 21)), ran(model), rtol=0, atol=1e-7)


def test_the_model_itself_stays_as_it_was() -> None:
    model = net("y = Clip (x, low)", constants="<float low = {-0.5}>")
    before = graph.to_bytes(model)
    at_opset(model, 10)
    assert graph.to_bytes(model) == before
