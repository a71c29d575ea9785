"""Static int8: where it is placed, that both engines compute it in integers, and that it stays close to float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx.reference import ReferenceEvaluator

from tests.nets import conv_net, mlp
from tests.passes.running import made_up_inputs, model_of, op_types, run, written
from tightship import formats
from tightship.core import graph
from tightship.core.dataset import Dataset
from tightship.core.graph import operator_name
from tightship.core.model import Model
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import DatasetError, InvalidModel, UnsupportedError, UsageError
from tightship.passes.int8_static import Int8Static
from tightship.passes.simplify import Simplify

ONE_LAYER_DB = 27.0
"""Signal to noise of one product of normal numbers. The largest of thousands is 4 to 5 deviations off, so steps are
10/255 of a deviation for activations and 3/64 (of 30 per channel) for weights; a uniform error is 0.29 of a step:
39 and 36 dB, 34 together. Ranges observed on little data cut off some of the rest."""

DEEP_DB = 22.0
"""After three to six layers, whose errors add up."""

SAME_DB = 45.0
"""Between engines: floats differ by rounding, so that a value at the very edge of two integers may go either way. One
element in 50 that is off by a step is 17 dB below the noise of all elements being off by up to half a step."""

engines = pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def calibration(model: Model, n_items: int = 64) -> Dataset:
    seeds = range(1, 2 if model.inputs[0].batch is None else 17)
    pieces = [made_up_inputs(model, n_items, seed) for seed in seeds]
    arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return Dataset.from_arrays("made up", "0", arrays)


def quantized(model: Model, **fields: object) -> Model:
    result = Int8Static(**fields).apply(model, calibration(model))  # type: ignore[arg-type]
    assert result.changed
    return result.model


def signal_to_noise_db(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    return float(20 * np.log10(np.linalg.norm(wanted) / (np.linalg.norm(found - wanted) + 1e-30)))


def least_db(found: Arrays, wanted: Arrays) -> float:
    assert list(found) == list(wanted)
    return min(signal_to_noise_db(found[name], wanted[name]) for name in wanted)


def merged(model: Model, folder: Path) -> Counter[str]:
    """Operator types after ONNX Runtime's own rewriting."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "merged.onnx")
    ort.InferenceSession(graph.to_bytes(model), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "merged.onnx").graph.node)


def openvino_precisions(model: Model, *layers: str) -> set[str]:
    """Precisions that layers of these types are computed in."""
    import openvino as ov

    core = ov.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(graph.to_bytes(model)), "CPU", options)
    infos = [entry.get_rt_info() for entry in compiled.get_runtime_model().get_ordered_ops()]
    found = [info["runtimePrecision"].astype(str) for info in infos if info["layerType"].astype(str) in layers]
    assert found, f"no {layers}"
    return set(found)


def dequantized_inputs(model: Model, name: str) -> list[bool]:
    """For each input of an operator, whether it comes from a DequantizeLinear."""
    node = next(node for node in model.graph.graph if operator_name(node) == name)
    producers = [value.producer() for value in node.inputs]
    behind_views = [node.inputs[0].producer() if node and node.op_type == "Reshape" else node for node in producers]
    return [node is not None and node.op_type == "DequantizeLinear" for node in behind_views]


def residual_net() -> Model:
    """A bottleneck block with pooling before and behind, and a classifier: the shape of a ResNet."""
    return written(
        """resnet (float[N, 3, 16, 16] x) => (float[N, 10] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            b = Relu (a)
            c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
            d = Conv (c, w2, b2)
            e = Relu (d)
            f = Conv <pads = [1, 1, 1, 1]> (e, w3, b3)
            g = Add (f, c)
            h = Relu (g)
            i = GlobalAveragePool (h)
            j = Flatten (i)
            y = Gemm <transB = 1> (j, w4, b4)
        }""",
        w1=normal(16, 3, 3, 3) / 4,
        b1=normal(16),
        w2=normal(16, 16, 1, 1) / 3,
        b2=normal(16),
        w3=normal(16, 16, 3, 3) / 9,
        b3=normal(16),
        w4=normal(10, 16),
        b4=normal(10),
    )


def encoder_layer() -> Model:
    """Attention of one head and a feed-forward part, on 12 tokens of an embedding."""
    names = ("wq", "wk", "wv", "wo")
    weights = {name: normal(64, 64, seed=index) / 8 for index, name in enumerate(names)}
    return written(
        """encoder (int64[N, 12] ids) => (float[N, 12, 64] y) {
            x = Gather (table, ids)
            n1 = LayerNormalization (x, g, b)
            q0 = MatMul (n1, wq)
            q = Add (q0, bq)
            k0 = MatMul (n1, wk)
            k = Add (bq, k0)
            v = MatMul (n1, wv)
            kt = Transpose <perm = [0, 2, 1]> (k)
            s = MatMul (q, kt)
            p = Softmax <axis = -1> (s)
            m = MatMul (p, v)
            o = MatMul (m, wo)
            r = Add (x, o)
            n2 = LayerNormalization (r, g, b)
            f0 = MatMul (n2, w1)
            f1 = Add (f0, b1)
            f2 = Relu (f1)
            f3 = MatMul (f2, w2)
            f4 = Add (f3, b2)
            y = Add (r, f4)
        }""",
        **weights,
        table=normal(300, 64),
        g=1 + 0.1 * normal(64),
        b=0.1 * normal(64),
        bq=normal(64),
        w1=normal(64, 256) / 8,
        b1=normal(256),
        w2=normal(256, 64) / 16,
        b2=normal(64),
    )


NETS = {"conv_net": lambda: model_of(conv_net()), "residual": residual_net, "encoder": encoder_layer}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=list(NETS))


FIELDS: list[dict[str, object]] = [
    *({}, {"activation": "int8"}, {"symmetric": True}, {"symmetric": True, "activation": "int8"}, {"attention": True}),
    *({"ranges": "percentile"}, {"ranges": "mse"}, {"correct_biases": True}, {"rounding": "gptq"}),
]


@every_net
@engines
@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_outputs_stay_close_to_float(make: Callable[[], Model], engine: str, fields: dict[str, object]) -> None:
    pytest.importorskip(engine)
    model = make()
    inputs = made_up_inputs(model, batch=32)
    assert least_db(run(quantized(model, **fields), inputs, engine), run(model, inputs)) > DEEP_DB


@every_net
@pytest.mark.parametrize(
    "fields", [{}, {"rounding": "gptq", "correct_biases": True}, {"weight_bits": 4}, {"symmetric": True}], ids=str
)
def test_engines_and_the_reference_compute_the_same(make: Callable[[], Model], fields: dict[str, object]) -> None:
    """Nothing saturates, so what engines merge gives the numbers that the operators are defined by."""
    model = make()
    model.graph.opset_imports[""] = 19  # the first that the reference has; no operator of these nets has changed
    after, inputs = quantized(model, **fields), made_up_inputs(model, batch=8)
    expected = ReferenceEvaluator(onnx.load_from_string(graph.to_bytes(after))).run(None, inputs)
    wanted = dict(zip([spec.name for spec in after.outputs], expected, strict=True))
    assert least_db(run(after, inputs), wanted) > SAME_DB
    pytest.importorskip("openvino")
    assert least_db(run(after, inputs, "openvino"), wanted) > SAME_DB


@every_net
@pytest.mark.parametrize("attention", [False, True])
def test_each_operator_that_is_named_reads_integers_and_no_other(make: Callable[[], Model], attention: bool) -> None:
    model = make()
    entry = Int8Static(attention=attention)
    names = {operator.name for operator in entry.operators(model) if operator.op_type != "Gather"}
    after = quantized(model, attention=attention)
    for node in after.graph.graph:
        if node.op_type in {"Conv", "Gemm", "MatMul"}:
            found = dequantized_inputs(after, operator_name(node))
            assert all(found) if operator_name(node) in names else not any(found), operator_name(node)


def test_sums_products_and_softmax_of_a_transformer_stay_float() -> None:
    after = quantized(encoder_layer(), attention=True)
    floats = [node for node in after.graph.graph if node.op_type in {"Add", "LayerNormalization", "Mul", "Softmax"}]
    assert len(floats) == 5  # two of the residual sums, two normalizations, one Softmax; biases are in the products
    for node in floats:
        read = [value.producer() for value in node.inputs if value.producer() is not None]
        assert all(each.op_type != "DequantizeLinear" or each.inputs[0].producer().op_type == "Gather" for each in read)


def test_the_sum_that_ends_a_residual_block_of_a_convolution_net_is_quantized() -> None:
    after = quantized(residual_net())
    addition = next(node for node in after.graph.graph if node.op_type == "Add")
    assert [value.producer().op_type for value in addition.inputs] == ["DequantizeLinear", "DequantizeLinear"]
    assert [node.op_type for node, _ in addition.outputs[0].uses()] == ["QuantizeLinear"]


@every_net
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_weights_of_4_bits_take_half_the_room_and_the_same_kernels(
    make: Callable[[], Model], rounding: str, tmp_path: Path
) -> None:
    wide, narrow = (quantized(make(), weight_bits=bits, rounding=rounding) for bits in (8, 4))
    assert merged(narrow, tmp_path) == merged(wide, tmp_path)
    sizes = [
        sum(value.const_value.nbytes for value in each.graph.graph.initializers.values() if _is_weight(value))
        for each in (wide, narrow)
    ]
    assert sizes[0] <= 2 * sizes[1] <= sizes[0] + 16  # a last byte of each weight may be half full


def _is_weight(value: onnx_ir.Value) -> bool:
    return value.name.endswith("/quantized") and "bias" not in value.name and "table" not in value.name


@every_net
def test_an_excluded_operator_stays_float(make: Callable[[], Model]) -> None:
    model = make()
    for operator in Int8Static(attention=True).operators(model):
        after = quantized(model, attention=True, exclude=(operator.name,))
        node = next(node for node in after.graph.graph if operator_name(node) == operator.name)
        stored = [value.dtype for value in node.inputs if value.const_value is not None]
        assert not any(dequantized_inputs(after, operator.name)[1:])
        assert onnx_ir.DataType.INT8 not in stored


@every_net
def test_what_is_observed_serves_every_choice_of_operators(make: Callable[[], Model]) -> None:
    model = make()
    entry = Int8Static(attention=True)
    statistics = entry.observe(model, calibration(model))
    names = [operator.name for operator in entry.operators(model)]
    random = np.random.default_rng(0)
    for _ in range(25):
        chosen = tuple(name for name in names if random.random() < 0.5)
        assert Int8Static(attention=True, exclude=chosen).rewrite(model, statistics).changed == (
            len(chosen) < len(names)
        )


def test_a_convolution_net_runs_in_integers_from_end_to_end_in_onnxruntime(tmp_path: Path) -> None:
    found = merged(quantized(residual_net()), tmp_path)
    assert found["QLinearConv"] == 3
    assert found["QLinearAdd"] == found["QLinearGlobalAveragePool"] == found["QGemm"] == 1
    # Integers in, float out; the layout of the image is changed at both ends.
    assert found.keys() - {"Transpose", "Flatten", "Reshape"} == {
        *("QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm", "NhwcMaxPool", "QuantizeLinear")
    }


def test_a_convolution_net_runs_in_integers_in_openvino() -> None:
    pytest.importorskip("openvino")
    precisions = openvino_precisions(quantized(residual_net()), "Convolution", "FullyConnected", "Pooling")
    assert precisions == {"u8"}


def test_an_encoder_runs_its_products_in_integers_in_onnxruntime(tmp_path: Path) -> None:
    found = merged(quantized(encoder_layer()), tmp_path)
    # Six products by weights, of which four have a bias; two of activations stay float.
    assert found["QGemm"] + found["MatMulIntegerToFloat"] == 6
    assert found["QGemm"] == 4
    assert found["MatMul"] + found["FusedMatMul"] == 2
    assert found["Gemm"] == 0


def test_an_encoder_runs_its_products_in_integers_in_openvino() -> None:
    pytest.importorskip("openvino")
    assert openvino_precisions(quantized(encoder_layer()), "FullyConnected") == {"u8"}


def test_attention_quantizes_the_products_of_activations_too(tmp_path: Path) -> None:
    after = quantized(encoder_layer(), attention=True)
    found = merged(after, tmp_path)
    assert found["MatMul"] + found["FusedMatMul"] + found["Gemm"] == 0
    second = next(node for node in after.graph.graph if node.name == "s").inputs[1].producer()
    assert second.inputs[2].const_value.numpy() == 0 and second.inputs[2].const_value.numpy().dtype == np.int8


ONE_OPERATOR = {
    "conv without bias": ("(float[N, 4, 9, 9] x) => (float[N, 8, 7, 7] y) { y = Conv (x, w) }", {"w": (8, 4, 3, 3)}),
    "conv of a series": (
        "(float[N, 4, 50] x) => (float[N, 8, 50] y) { y = Conv <pads = [1, 1]> (x, w, b) }",
        {"w": (8, 4, 3), "b": (8,)},
    ),
    "conv of a volume": (
        "(float[N, 4, 6, 6, 6] x) => (float[N, 8, 4, 4, 4] y) { y = Conv (x, w) }",
        {"w": (8, 4, 3, 3, 3)},
    ),
    "depthwise conv": (
        "(float[N, 8, 9, 9] x) => (float[N, 8, 7, 7] y) { y = Conv <group = 8> (x, w, b) }",
        {"w": (8, 1, 3, 3), "b": (8,)},
    ),
    "conv in groups": (
        "(float[N, 8, 9, 9] x) => (float[N, 16, 4, 4] y) { y = Conv <group = 4, strides = [2, 2]> (x, w, b) }",
        {"w": (16, 2, 3, 3), "b": (16,)},
    ),
    "conv and a bias behind it": (
        "(float[N, 4, 9, 9] x) => (float[N, 8, 7, 7] y) { a = Conv (x, w)  y = Add (b, a) }",
        {"w": (8, 4, 3, 3), "b": (8, 1, 1)},
    ),
    "gemm": ("(float[N, 32] x) => (float[N, 16] y) { y = Gemm (x, w, b) }", {"w": (32, 16), "b": (16,)}),
    "gemm without bias": ("(float[N, 32] x) => (float[N, 16] y) { y = Gemm (x, w) }", {"w": (32, 16)}),
    "gemm of a transposed weight": (
        "(float[N, 32] x) => (float[N, 16] y) { y = Gemm <transB = 1> (x, w, b) }",
        {"w": (16, 32), "b": (1, 16)},
    ),
    "gemm of a transposed input": (
        "(float[32, 8] x) => (float[8, 16] y) { y = Gemm <transA = 1> (x, w, b) }",
        {"w": (32, 16), "b": (16,)},
    ),
    "gemm with one bias for all": (
        "(float[N, 32] x) => (float[N, 16] y) { y = Gemm (x, w, b) }",
        {"w": (32, 16), "b": (1,)},
    ),
    "matmul": ("(float[N, 5, 32] x) => (float[N, 5, 16] y) { y = MatMul (x, w) }", {"w": (32, 16)}),
    "matmul of a stack": ("(float[4, 5, 32] x) => (float[4, 5, 16] y) { y = MatMul (x, w) }", {"w": (4, 32, 16)}),
    "matmul and a bias": (
        "(float[N, 5, 32] x) => (float[N, 5, 16] y) { a = MatMul (x, w)  y = Add (a, b) }",
        {"w": (32, 16), "b": (16,)},
    ),
    "matmul and a bias in two dimensions": (
        "(float[N, 32] x) => (float[N, 16] y) { a = MatMul (x, w)  y = Add (a, b) }",
        {"w": (32, 16), "b": (1, 16)},
    ),
    "matmul and a bias, lengths unknown": (
        "(float[N, S, 32] x) => (float[N, S, 16] y) { a = MatMul (x, w)  y = Add (a, b) }",
        {"w": (32, 16), "b": (16,)},
    ),
}


@engines
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("case", ONE_OPERATOR)
def test_one_operator_is_computed_in_integers(case: str, per_channel: bool, engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    text, shapes = ONE_OPERATOR[case]
    model = written(f"net {text}", **{name: normal(*shape) for name, shape in shapes.items()})
    after = quantized(model, per_channel=per_channel)
    inputs = made_up_inputs(model)
    assert least_db(run(after, inputs, engine), run(model, inputs)) > ONE_LAYER_DB
    assert not {"Conv", "FusedConv", "Gemm", "MatMul"} & merged(after, tmp_path).keys()


STAYS_FLOAT = {
    "matmul of a constant on the left": (
        "(float[32, 7] x) => (float[16, 7] y) { y = MatMul (w, x) }",
        {"w": (16, 32)},
    ),
    "matmul by a vector": ("(float[N, 32] x) => (float[N] y) { y = MatMul (x, w) }", {"w": (32,)}),
    "gemm with a factor": (
        "(float[N, 32] x) => (float[N, 16] y) { y = Gemm <alpha = 0.5> (x, w, b) }",
        {"w": (32, 16), "b": (16,)},
    ),
    "gemm with a bias per row": (
        "(float[4, 32] x) => (float[4, 16] y) { y = Gemm (x, w, b) }",
        {"w": (32, 16), "b": (4, 1)},
    ),
    "conv of a computed weight": (
        "(float[8, 4, 3, 3] x) => (float[1, 8, 7, 7] y) { y = Conv (w, x) }",
        {"w": (1, 4, 9, 9)},
    ),
    "products of constants": (
        "(float[N, 16] x) => (float[N, 16] y) { a = MatMul (v, w)  y = Add (x, a) }",
        {"v": (1, 32), "w": (32, 16)},
    ),
    "matmul by a hidden constant": (
        "(float[N, 32] x) => (float[N, 16] y) { a = Transpose (w)  y = MatMul (x, a) }",
        {"w": (16, 32)},
    ),
}


@pytest.mark.parametrize("case", STAYS_FLOAT)
def test_what_no_rule_answers_for_stays_as_it_is(case: str) -> None:
    text, shapes = STAYS_FLOAT[case]
    model = written(f"net {text}", **{name: normal(*shape) for name, shape in shapes.items()})
    result = Int8Static(attention=True).apply(model, calibration(model))
    assert not result.changed
    assert result.notes == ("no operator is left to quantize",)


def test_half_precision_models_stay_as_they_are() -> None:
    model = written(
        "net (float16[N, 32] x) => (float16[N, 16] y) { y = MatMul (x, w) }", w=normal(32, 16).astype(np.float16)
    )
    assert not Int8Static(attention=True).apply(model, calibration(model)).changed


@pytest.mark.parametrize(
    ("activation", "removed"),
    [("Relu (a)", True), ("Clip (a, zero, six)", True), ("Clip (a, minus, six)", True), ("Clip (a, , six)", False)],
)
@engines
def test_what_saturation_cuts_off_needs_no_operator(
    activation: str, removed: bool, engine: str, tmp_path: Path
) -> None:
    pytest.importorskip(engine)
    model = written(
        f"net (float[N, 4, 9, 9] x) => (float[N, 8, 7, 7] y) {{ a = Conv (x, w, b)  y = {activation} }}",
        w=normal(8, 4, 3, 3),
        b=normal(8),
        zero=np.float32(0),
        minus=np.float32(-1),
        six=np.float32(6),
    )
    after, inputs = quantized(model), made_up_inputs(model)
    assert (not {"Relu", "Clip"} & set(op_types(after))) == removed
    assert merged(after, tmp_path)["QLinearConv"] == 1
    assert least_db(run(after, inputs, engine), run(model, inputs)) > ONE_LAYER_DB


def test_an_output_that_is_quantized_keeps_its_name_and_type() -> None:
    model = written(
        """net (float[N, 4, 9, 9] x) => (float[N, 8, 7, 7] a, float[N, 8, 7, 7] b, float[N, 4, 7, 7] y) {
            a = Conv (x, w)
            b = Relu (a)
            y = Conv (b, v)
        }""",
        w=normal(8, 4, 3, 3),
        v=normal(4, 8, 1, 1),
    )
    after, inputs = quantized(model), made_up_inputs(model)
    assert graph.graph_specs(after.graph) == (model.inputs, model.outputs)
    assert least_db(run(after, inputs), run(model, inputs)) > DEEP_DB


def test_float_operators_read_what_a_convolution_gives_in_integers(tmp_path: Path) -> None:
    """Were one of them to read the float output, ONNX Runtime would compute the convolution in floats."""
    model = written(
        """net (float[N, 4, 9, 9] x) => (float[N, 8, 7, 7] y) {
            a = Conv (x, w)
            b = HardSwish (a)
            y = Mul (a, b)
        }""",
        w=normal(8, 4, 3, 3),
    )
    assert merged(quantized(model), tmp_path)["QLinearConv"] == 1


def test_a_sum_that_no_convolution_reads_stays_float() -> None:
    model = written(
        "net (float[N, 4, 9, 9] x) => (float[N, 4, 9, 9] y) { a = Conv (x, w)  b = Conv (x, v)  y = Add (a, b) }",
        w=normal(4, 4, 1, 1),
        v=normal(4, 4, 1, 1),
    )
    after = quantized(model)
    assert next(node for node in after.graph.graph if node.op_type == "Add").outputs[0].is_graph_output()


def test_operators_that_move_elements_share_the_range_of_what_they_move() -> None:
    """Otherwise integers would have to be converted on the way."""
    after = quantized(residual_net())
    scales = {}
    for node in after.graph.graph:
        if node.op_type == "QuantizeLinear":
            scales[node.name] = float(node.inputs[1].const_value.numpy())
    assert scales["c/quantize"] == scales["b/quantize"]
    assert scales["j/quantize"] == scales["i/quantize"]


def test_an_excluded_sum_stays_float(tmp_path: Path) -> None:
    assert merged(quantized(residual_net(), exclude=("g",)), tmp_path)["QLinearAdd"] == 0


def test_a_weight_that_two_operators_share_is_stored_once_with_biases_of_their_own() -> None:
    model = written(
        """net (float[N, 32] x) => (float[N, 32] y) {
            a = Gemm (x, w, b)
            c = Relu (a)
            y = Gemm (c, w, b)
        }""",
        w=normal(32, 32),
        b=normal(32),
    )
    after, inputs = quantized(model), made_up_inputs(model)
    kinds = Counter(str(value.dtype) for value in after.graph.graph.initializers.values() if value.shape.numpy())
    assert sum(1 for value in after.graph.graph.initializers.values() if value.const_value.size == 32 * 32) == 1
    assert kinds["INT32"] >= 2
    assert least_db(run(after, inputs), run(model, inputs)) > DEEP_DB


def test_biases_have_the_scale_of_their_products() -> None:
    after = quantized(model_of(conv_net()))
    node = next(node for node in after.graph.graph if node.op_type == "Conv")
    x, weight, bias = (value.producer().inputs for value in node.inputs)
    scales = [inputs[1].const_value.numpy() for inputs in (x, weight, bias)]
    np.testing.assert_array_equal(scales[2], scales[0] * scales[1])
    assert bias[0].const_value.numpy().dtype == np.int32


@pytest.mark.parametrize(("bits", "largest"), [(7, 64), (8, 127)])
def test_weights_keep_to_their_bits(bits: int, largest: int) -> None:
    after = quantized(model_of(mlp()), weight_bits=bits)
    weights = [value.const_value.numpy() for value in after.graph.graph.initializers.values()]
    peaks = {
        int(np.abs(weight.astype(int)).max()) for weight in weights if weight.dtype == np.int8 and weight.ndim == 2
    }
    assert peaks == {largest}


@engines
def test_the_largest_sums_do_not_saturate(engine: str) -> None:
    """With AVX2 alone sums of two 8-bit products are kept in 16 bits."""
    pytest.importorskip(engine)
    model = written("net (float[N, 512] x) => (float[N, 64] y) { y = MatMul (x, w) }", w=1 + 0.1 * normal(512, 64))
    inputs = {"x": 1 + 0.1 * normal(64, 512)}
    after = Int8Static().apply(model, Dataset.from_arrays("ones", "0", inputs)).model
    assert least_db(run(after, inputs, engine), run(model, inputs)) > 40  # rounding errors of 512 products cancel


def test_an_embedding_is_stored_in_integers_and_looked_up_there(tmp_path: Path) -> None:
    model = encoder_layer()
    after = quantized(model)
    assert not any(value.const_value.nbytes >= 300 * 64 * 4 for value in after.graph.graph.initializers.values())
    only = tuple(operator.name for operator in Int8Static().operators(model) if operator.op_type != "Gather")
    alone, inputs = quantized(model, exclude=only), made_up_inputs(model)
    assert op_types(alone).count("DequantizeLinear") == 1
    assert least_db(run(alone, inputs), run(model, inputs)) > 38  # steps of 6/255 deviations: 44 dB, amplified later


def test_operators_in_subgraphs_are_left_alone() -> None:
    model = written(
        """net (float[N, 8] x, bool c) => (float[N, 8] y) {
            a = MatMul (x, w)
            y = If (c) <
                then_branch = yes () => (float[N, 8] t) { t = MatMul (a, v) },
                else_branch = no () => (float[N, 8] e) { e = Add (a, x) }
            >
        }""",
        w=normal(8, 8),
        v=normal(8, 8),
    )
    data = Dataset.from_arrays("made up", "0", {"x": normal(64, 8), "c": np.ones(64, bool)})
    entry = Int8Static()
    assert [operator.name for operator in entry.operators(model)] == ["a"]
    after = entry.apply(model, data).model
    for condition in (True, False):
        inputs = {"x": normal(5, 8, seed=2), "c": np.array(condition)}
        assert least_db(run(after, inputs), run(model, inputs)) > ONE_LAYER_DB


def test_a_convolution_that_a_subgraph_reads_keeps_its_values() -> None:
    model = written(
        """net (float[1, 4, 9, 9] x, bool c) => (float[1, 8, 7, 7] y) {
            a = Conv (x, w)
            y = If (c) <
                then_branch = yes () => (float[1, 8, 7, 7] t) { t = Relu (a) },
                else_branch = no () => (float[1, 8, 7, 7] e) { e = Conv (x, w) }
            >
        }""",
        w=normal(8, 4, 3, 3),
    )
    data = Dataset.from_arrays("made up", "0", {"x": normal(16, 4, 9, 9), "c": np.ones(16, bool)})
    after = Int8Static().apply(model, data).model
    for condition in (True, False):
        inputs = {"x": normal(1, 4, 9, 9, seed=2), "c": np.array(condition)}
        assert least_db(run(after, inputs), run(model, inputs)) > ONE_LAYER_DB


@every_net
def test_names_are_unique(make: Callable[[], Model]) -> None:
    after = quantized(make(), attention=True).graph
    nodes = [node.name for node in after.graph]
    values = [value.name for node in after.graph for value in node.outputs]
    assert len(set(nodes)) == len(nodes) and all(nodes)
    assert not set(values) & set(after.graph.initializers) and len(set(values)) == len(values) and all(values)
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(graph.from_ir(after))), full_check=True)


def test_names_that_are_taken_are_not_given_again() -> None:
    model = written(
        "net (float[N, 8] x) => (float[N, 8] y) { a = MatMul (x, w)  b = Relu (a)  y = Tanh (b) }", w=normal(8, 8)
    )
    first, second, _ = model.graph.graph
    first.outputs[0].name, second.outputs[0].name = "x/quantize", "w/dequantize"
    after, inputs = quantized(model), made_up_inputs(model)
    assert least_db(run(after, inputs), run(model, inputs)) > ONE_LAYER_DB


def test_statistics_of_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="no range of tensor 'image'; calibrate with this same model"):
        Int8Static().rewrite(model_of(conv_net()), {"x": [0.0, 1.0]})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight_bits": 5}, "weight_bits must be 4, 7 or 8, found 5"),
        ({"activation": "int16"}, "activation must be uint8 or int8, found 'int16'"),
        ({"ranges": "max"}, "ranges must be minmax, percentile, mse or entropy, found 'max'"),
        ({"rounding": "up"}, "rounding must be nearest, gptq or adaround, found 'up'"),
        ({"percentile": 20.0}, "percentile must be above 50 and at most 100, found 20.0"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Int8Static(**fields)  # type: ignore[arg-type]


def test_calibration_data_is_required() -> None:
    with pytest.raises(DatasetError, match="needs data"):
        Int8Static().apply(model_of(mlp()))


def test_a_bias_that_is_not_a_number_is_refused() -> None:
    model = written(
        "net (float[N, 32] x) => (float[N, 16] y) { y = Gemm (x, w, b) }",
        w=normal(32, 16),
        b=np.full(16, np.nan, np.float32),
    )
    with pytest.raises(InvalidModel, match="'b'"):
        Int8Static().apply(model, calibration(model))


def test_a_tensor_that_is_always_zero_does_no_harm() -> None:
    model = written(
        "net (float[N, 32] x) => (float[N, 16] y) { a = Mul (x, zero)  y = Gemm (a, w, b) }",
        zero=np.float32(0),
        w=normal(32, 16),
        b=normal(16),
    )
    after, inputs = quantized(model), made_up_inputs(model)
    np.testing.assert_allclose(run(after, inputs)["y"], run(model, inputs)["y"], rtol=1e-5)


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_models_of_old_opsets_are_upgraded(opset: int) -> None:
    model = written(
        """net (float[2, 4, 9, 9] x) => (float[2, 16] y) {
            a = Conv (x, w, b)
            c = Relu (a)
            d = GlobalAveragePool (c)
            e = Flatten (d)
            y = Gemm (e, v, u)
        }""",
        opset=opset,
        ir_version=3 if opset < 9 else 6,
        w=normal(8, 4, 3, 3),
        b=normal(8),
        v=normal(8, 16),
        u=normal(16),
    )
    after, inputs = quantized(model), made_up_inputs(model, batch=2)
    assert after.graph.opset_imports[""] >= 13
    assert least_db(run(after, inputs), run(model, inputs)) > DEEP_DB


def test_an_old_model_that_cannot_be_upgraded_is_refused() -> None:
    model = written(
        """net (float[N, 8] x) => (float[N, 8] y) {
            a = MatMul (x, w)
            y = com.example.Mystery (a)
        }""",
        opset=11,
        w=normal(8, 8),
    )
    model.graph.opset_imports["com.example"] = 1
    with pytest.raises(UnsupportedError, match="int8-static needs opset 13 or later, found 11"):
        Int8Static().operators(model)


@engines
@pytest.mark.parametrize("simplified", [False, True])
def test_digits_are_recognised_as_before(data_dir: Path, engine: str, simplified: bool) -> None:
    pytest.importorskip(engine)
    folder = data_dir / "mnist_onnx"
    model = formats.read(formats.recognise(str(folder / "mnist.onnx")))
    model = Simplify().apply(model).model if simplified else model
    digits = np.load(folder / "mnist_first5000.npz")
    images, labels = digits["x"].astype(np.float32).reshape(-1, 1, 28, 28), digits["y"]
    data = Dataset.from_arrays("digits", "0", {model.inputs[0].name: images[:100]})
    after = Int8Static().apply(model, data).model
    float_hits, int8_hits = (hits(entry, images[4000:], labels[4000:], engine) for entry in (model, after))
    assert int8_hits >= float_hits - 5


def hits(model: Model, images: np.ndarray, labels: np.ndarray, engine: str) -> int:
    """How many images are given their label, one by one."""
    with open_session(model, Target(engine, threads=1)) as session:
        outputs = [session.run({model.inputs[0].name: image[None]})[model.outputs[0].name] for image in images]
    return int((np.concatenate(outputs).argmax(axis=1) == labels).sum())
