"""What is found out operator by operator: mean errors that biases take up, and codes that keep the outputs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tests.nets import conv_net
from tests.passes.running import made_up_inputs, model_of, relative_error, run, written
from tests.passes.test_int8_static import calibration, encoder_layer, normal, residual_net
from tightship.core import graph
from tightship.core.model import Model
from tightship.passes.editing import editable, infer_shapes, name_everything
from tightship.passes.int8_static import Int8Static
from tightship.passes.patches import reading
from tightship.passes.walk import Walk

NETS = {"conv_net": lambda: model_of(conv_net()), "residual": residual_net, "encoder": encoder_layer}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=list(NETS))


def quantized(model: Model, **fields: object) -> Model:
    return Int8Static(**fields).apply(model, calibration(model)).model  # type: ignore[arg-type]


def error(after: Model, model: Model) -> float:
    inputs = made_up_inputs(model, batch=64, seed=99)
    return max(relative_error(found, wanted) for found, wanted in zip(*outputs(inputs, after, model), strict=True))


def outputs(inputs: dict[str, np.ndarray], *models: Model) -> list[list[np.ndarray]]:
    return [list(run(model, inputs).values()) for model in models]


@pytest.mark.parametrize(
    ("make", "left"), [(make, 0.75 if name == "encoder" else 0.5) for name, make in NETS.items()], ids=list(NETS)
)
def test_correcting_biases_takes_the_mean_error_out_of_the_outputs(make: object, left: float) -> None:
    """More is left in the encoder: two of its products have no bias, and the rows it looks up are rounded too."""
    model = make()  # type: ignore[operator]
    inputs = made_up_inputs(model, batch=256, seed=99)
    wanted = np.concatenate([array.reshape(-1, array.shape[-1]) for array in run(model, inputs).values()])

    def mean_error(after: Model) -> float:
        found = np.concatenate([array.reshape(-1, array.shape[-1]) for array in run(after, inputs).values()])
        return float(np.linalg.norm((found - wanted).mean(axis=0)))

    assert mean_error(quantized(model, correct_biases=True)) < left * mean_error(quantized(model))


@every_net
@pytest.mark.parametrize("rounding", ["gptq", "adaround"])
def test_rounding_for_the_outputs_beats_rounding_to_nearest_at_4_bits(make: object, rounding: str) -> None:
    model = make()  # type: ignore[operator]
    nearest, chosen = (quantized(model, weight_bits=4, rounding=name) for name in ("nearest", rounding))
    assert error(chosen, model) < 0.75 * error(nearest, model)


def test_rounding_for_the_outputs_beats_rounding_to_nearest_at_7_bits() -> None:
    model = encoder_layer()
    assert error(quantized(model, rounding="gptq"), model) < error(quantized(model), model)


def test_codes_of_4_bits_are_within_them_and_of_7_within_those() -> None:
    model = residual_net()
    for bits, largest in ((4, 7), (7, 64), (8, 127)):
        for rounding in ("nearest", "gptq"):
            after = quantized(model, weight_bits=bits, rounding=rounding)
            for node in after.graph.graph:
                if node.op_type == "Conv":
                    stored = node.inputs[1].producer().inputs[0]
                    stored = stored if stored.const_value is not None else stored.producer().inputs[0]  # int4, Cast
                    assert np.abs(stored.const_value.numpy().astype(int)).max() <= largest


def test_an_operator_without_a_bias_is_given_one_to_take_up_its_error() -> None:
    model = written("net (float[N, 4, 9, 9] x) => (float[N, 8, 7, 7] y) { y = Conv (x, w) }", w=normal(8, 4, 3, 3))
    assert len(next(node for node in quantized(model).graph.graph if node.op_type == "Conv").inputs) == 2
    after = quantized(model, correct_biases=True)
    assert len(next(node for node in after.graph.graph if node.op_type == "Conv").inputs) == 3


def test_what_is_found_serves_a_rewrite_that_leaves_operators_out() -> None:
    model = residual_net()
    entry = Int8Static(rounding="gptq", correct_biases=True)
    statistics = entry.observe(model, calibration(model))
    for operator in entry.operators(model):
        less = Int8Static(rounding="gptq", correct_biases=True, exclude=(operator.name,))
        after = less.rewrite(model, statistics).model
        assert error(after, model) < 0.2


CONVOLUTIONS = {
    "plain": ("Conv (x, w)", (8, 4, 3, 3), (2, 4, 9, 9)),
    "padded and strided": ("Conv <pads = [1, 0, 2, 1], strides = [2, 1]> (x, w)", (8, 4, 3, 3), (2, 4, 9, 9)),
    "dilated": ("Conv <dilations = [2, 1]> (x, w)", (8, 4, 3, 3), (2, 4, 9, 9)),
    "depthwise": ("Conv <group = 4> (x, w)", (8, 1, 3, 3), (2, 4, 9, 9)),
    "in groups": ("Conv <group = 2> (x, w)", (6, 2, 1, 3), (2, 4, 9, 9)),
    "of a series": ("Conv <pads = [1, 1]> (x, w)", (8, 4, 3), (2, 4, 20)),
    "gemm": ("Gemm (x, w)", (12, 8), (5, 12)),
    "gemm, transposed": ("Gemm <transB = 1> (x, w)", (8, 12), (5, 12)),
    "matmul": ("MatMul (x, w)", (12, 8), (2, 3, 12)),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_rows_times_the_weight_are_the_operator(case: str) -> None:
    text, weight_shape, shape = CONVOLUTIONS[case]
    dims = ", ".join(map(str, shape))
    model = written(f"net (float[{dims}] x) => (float y) {{ y = {text} }}", w=normal(*weight_shape))
    found = reading(next(iter(model.graph.graph)))
    assert found is not None
    x = normal(*shape, seed=1)
    (wanted,) = ReferenceEvaluator(onnx.load_from_string(graph.to_bytes(model))).run(None, {"x": x})
    rows = found.rows(x, np.random.default_rng(0))
    product = np.einsum("rgk,gnk->rgn", rows, found.weight(normal(*weight_shape))).reshape(len(rows), -1)
    channel = 1 if "Conv" in text else -1
    np.testing.assert_allclose(product, np.moveaxis(wanted, channel, -1).reshape(product.shape), rtol=1e-4, atol=1e-4)
    assert (found.stored(found.weight(normal(*weight_shape)), normal(*weight_shape)) == normal(*weight_shape)).all()


@every_net
def test_a_walk_gives_every_value_that_running_the_graph_gives(make: object, tmp_path: Path) -> None:
    model = make()  # type: ignore[operator]
    copy = editable(model)
    name_everything(copy)
    infer_shapes(copy)
    inputs = [made_up_inputs(model, batch=3, seed=seed) for seed in range(2)]
    walk = Walk(copy, inputs, tmp_path)
    values = [value for node in copy.graph for value in node.outputs[:1]][:-1]
    every = editable(model)
    every.graph.outputs[:] = [every.graph[index].outputs[0] for index in range(len(values))]
    whole = [run(graph.from_ir(every), batch) for batch in inputs]
    for value, output in zip(values, every.graph.outputs, strict=True):
        for found, wanted in zip(walk.to(value), whole, strict=True):
            np.testing.assert_allclose(found, wanted[output.name], rtol=1e-4, atol=1e-5)
    folders = [path.name for path in tmp_path.iterdir()]
    assert len(folders) == 1, "what no operator ahead reads is removed"
    assert all(first is not second for first, second in pairwise(values))
