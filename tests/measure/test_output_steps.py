"""One step of logits in steps of the probabilities behind them."""

from __future__ import annotations

import pytest
from onnx import parser

from tightship.core.graph import from_bytes
from tightship.measure.output_steps import steps_behind_squashing

ENDINGS = {
    "d = DequantizeLinear (x, s, z) p = Softmax (d) y = QuantizeLinear (p, t, z)": 7,
    "d = DequantizeLinear (x, s, z) p = Sigmoid (d) y = QuantizeLinear (p, t, z)": 7,
    "d = DequantizeLinear (x, s, z) p = Relu (d) y = QuantizeLinear (p, t, z)": 0,
    "d = Cast <to = 1> (x) p = Softmax (d) y = QuantizeLinear (p, t, z)": 0,
}


@pytest.mark.parametrize(("body", "expected"), ENDINGS.items())
def test_a_step_of_logits_is_a_quarter_of_it_over_the_step_of_probabilities(body: str, expected: int) -> None:
    text = f"""<ir_version: 9, opset_import: ["" : 17]> n (int8[N, 4] x) => (int8[N, 4] y)
        <float s = {{0.1}}, float t = {{0.00390625}}, int8 z = {{0}}> {{ {body} }}"""
    assert steps_behind_squashing(from_bytes(parser.parse_model(text).SerializeToString()).graph) == expected
