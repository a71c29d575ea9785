"""Convolutions that end a network: products, whose sums engines give as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.passes.running import op_types, relative_error, run, written
from tests.passes.test_int8_static import calibration, merged, normal
from tightship.core.model import Model
from tightship.passes.int8_static import Int8Static

SOFTMAX = "e = Squeeze (d, axes) y = Softmax <axis = 1> (e)"


def classifier(end: str, kernel: int = 1, attributes: str = "") -> Model:
    """Pooling to `kernel` places each way, a convolution over all of them, `end`."""
    window = f"[{8 // kernel}, {8 // kernel}]"
    return written(
        f"""net (float[N, 3, 8, 8] x) => (float[N, 6] y) {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            b = Relu (a)
            c = AveragePool <kernel_shape = {window}, strides = {window}> (b)
            d = Conv {attributes} (c, w2, b2)
            {end}
        }}""",
        w1=normal(4, 3, 3, 3, seed=1),
        b1=normal(4, seed=2),
        w2=normal(6, 4, kernel, kernel, seed=3),
        b2=normal(6, seed=4),
        axes=np.array([2, 3]),
        w3=normal(6, 6, 1, 1, seed=5),
    )


def quantized(model: Model, **fields: object) -> Model:
    return Int8Static(weight_bits=8, **fields).apply(model, calibration(model)).model  # type: ignore[arg-type]


def counted(model: Model) -> tuple[int, int]:
    return op_types(model).count("Conv"), op_types(model).count("Gemm")


@pytest.mark.parametrize("kernel", [1, 2])
def test_the_last_convolution_runs_in_integers_and_its_sums_are_not_rounded(kernel: int, tmp_path: Path) -> None:
    after = quantized(classifier(SOFTMAX, kernel))
    assert counted(after) == (1, 1)
    assert not any(node.name in {"d/quantize", "e/quantize"} for node in after.graph.graph)
    kinds = merged(after, tmp_path)
    assert kinds["QGemm"] == kinds["QLinearConv"] == 1
    assert kinds["Conv"] == kinds["Gemm"] == 0


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("fields", [{}, {"rounding": "gptq", "correct_biases": True}], ids=["plain", "accurate"])
def test_probabilities_are_closer_than_where_logits_are_rounded(
    engine: str, fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier(SOFTMAX)
    x = {"x": 3 * normal(64, 3, 8, 8, seed=9)}
    wanted = run(model, x)["y"]
    found = relative_error(run(quantized(model, **fields), x, engine)["y"], wanted)
    monkeypatch.setattr("tightship.passes.int8_static.last_products", lambda graph: None)
    assert found < 0.9 * relative_error(run(quantized(model, **fields), x, engine)["y"], wanted)


@pytest.mark.parametrize(
    ("end", "counts"),
    [
        ("e = Relu (d) f = Conv (e, w3) y = Squeeze (f, axes)", (2, 1)),
        ("e = Squeeze (d, axes) f = Unsqueeze (e, axes) g = Conv (f, w3) y = Squeeze (g, axes)", (2, 1)),
        ("e = Sigmoid (d) y = Squeeze (e, axes)", (1, 1)),
        ("y = Squeeze (d, axes)", (1, 1)),
    ],
)
def test_only_a_convolution_whose_result_nobody_reads_in_8_bits_becomes_a_product(
    end: str, counts: tuple[int, int]
) -> None:
    assert counted(quantized(classifier(end))) == counts


def test_a_convolution_that_does_not_see_all_of_its_input_stays_one() -> None:
    padded = classifier("e = GlobalMaxPool (d) y = Squeeze (e, axes)", 2, "<pads = [1, 1, 1, 1]>")
    assert counted(quantized(padded)) == (2, 0)


def test_an_excluded_last_convolution_is_float_and_known_by_its_name() -> None:
    model = classifier(SOFTMAX)
    names = [operator.name for operator in Int8Static().operators(model)]
    assert [operator.op_type for operator in Int8Static().operators(model)] == ["Conv", "Conv"]
    x = {"x": normal(8, 3, 8, 8, seed=9)}
    found = run(quantized(model, exclude=(names[-1],)), x)["y"]
    assert relative_error(found, run(model, x)["y"]) < relative_error(run(quantized(model), x)["y"], run(model, x)["y"])
