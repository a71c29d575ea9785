"""Whole models come back from ONNX as modules that a person can read, train, and export again."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser
from torch import nn

from tests import nets
from tests.bridges.onnx_to_torch.networks import NETWORKS, exported, network
from tightship import formats
from tightship.bridges.onnx_to_torch import to_module
from tightship.core import graph
from tightship.core.artifact import Artifact
from tightship.core.dataset import Batch, Dataset
from tightship.core.exported import export, has_batch
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.core.torch_module import to_numpy
from tightship.engines import open_session
from tightship.errors import TightshipError, UnsupportedError, UnsupportedOperators
from tightship.passes.int8_dynamic import Int8Dynamic
from tightship.passes.int8_static import Int8Static
from tightship.passes.weight_only import WeightOnly

TOLERANCE = 1e-5
"""Largest error relative to the largest output: float32 sums in another order."""

REAL = (
    "dtln/model_1.onnx",
    "dtln/model_2.onnx",
    "fastestdet/FastestDet.onnx",
    "mlperf_tiny_alibaba_onnx/model_ad.onnx",
    "mlperf_tiny_alibaba_onnx/model_ic.onnx",
    "mlperf_tiny_alibaba_onnx/model_kws.onnx",
    "mlperf_tiny_alibaba_onnx/model_vww.onnx",
    "mnist_onnx/mnist.onnx",
    "ultraface/version-RFB-320.onnx",
    "ultraface/version-RFB-320_without_postprocessing.onnx",
    "ultraface/version-slim-320_without_postprocessing.onnx",
)


def parsed(text: str, **weights: np.ndarray) -> Model:
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return graph.from_bytes(model.SerializeToString())


def call(model: Model, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        outputs: dict[str, torch.Tensor] = model.content.module(*inputs)
    return outputs


def largest_error(source: Model, converted: Model, inputs: tuple[torch.Tensor, ...]) -> float:
    """Largest error of all outputs against ONNX Runtime, relative to each output's largest value."""
    outputs = call(converted, *inputs)
    with open_session(source, Target()) as session:
        arrays = {spec.name: to_numpy(tensor) for spec, tensor in zip(source.inputs, inputs, strict=True)}
        expected = session.run(arrays)
    errors = []
    for name, array in expected.items():
        found = to_numpy(outputs[name])
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        errors.append(float(np.max(np.abs(found - array), initial=0)) / max(float(np.max(np.abs(array))), 1e-6))
    return max(errors)


@pytest.mark.parametrize("path", REAL)
def test_a_real_model_gives_what_onnx_runtime_gives(data_dir: Path, path: str) -> None:
    source = formats.read(Artifact(data_dir / path, "onnx"))
    converted = to_module(source)
    assert [spec.name for spec in converted.inputs] == [spec.name for spec in source.inputs]
    assert [spec.name for spec in converted.outputs] == [spec.name for spec in source.outputs]
    assert largest_error(source, converted, converted.content.example_inputs) < TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_comes_back_and_takes_any_batch(name: str) -> None:
    module, example = network(name)
    converted = to_module(exported(name))
    batch = torch.cat([example, example.roll(1, -1), example.flip(-1)])
    with torch.no_grad():
        expected = module(batch)
    found = call(converted, batch)["output"]
    assert has_batch(converted)
    assert float((found - expected).abs().max()) < TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_export_follows_the_module_at_any_batch(name: str) -> None:
    module, example = network(name)
    program = export(to_module(exported(name)), batch=True)
    batch = torch.cat([example] * 5)
    with torch.no_grad():
        found, expected = program.module()(batch)["output"], module(batch)
    assert float((found - expected).abs().max()) < TOLERANCE * float(expected.abs().max())


def test_torch_export_follows_mnist(data_dir: Path) -> None:
    converted = to_module(formats.read(Artifact(data_dir / "mnist_onnx/mnist.onnx", "onnx")))
    image = converted.content.example_inputs[0]
    program = export(converted, batch=False)
    (name,) = call(converted, image)
    assert torch.allclose(program.module()(image)[name], call(converted, image)[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    _, example = network(name)
    module = to_module(exported(name)).content.module.train()
    outputs = module(torch.cat([example, example.roll(1, -1)]))["output"]
    (outputs * torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    without = [key for key, value in module.named_parameters() if value.grad is None or not value.grad.any()]
    assert not [key for key in without if not _constant_of_the_exporter(module, key)]


def _constant_of_the_exporter(module: nn.Module, key: str) -> bool:
    """A causal mask, whose gradient may be zero, is a float constant of the graph like any weight."""
    return bool(torch.isinf(module.get_parameter(key)).any())


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("resnet", {nn.Conv2d: 4, nn.Linear: 1, nn.MaxPool2d: 1}),
        ("unet", {nn.Conv2d: 1, nn.ConvTranspose2d: 1, nn.PReLU: 1}),
        ("transformer", {nn.Embedding: 1, nn.LayerNorm: 2, nn.Linear: 5}),
        ("lstm", {nn.LSTM: 2, nn.Linear: 1}),
        ("bigru", {nn.GRU: 2, nn.Linear: 1}),
    ],
)
def test_constant_weights_become_layers(name: str, kinds: dict[type[nn.Module], int]) -> None:
    layers = list(to_module(exported(name)).content.module.modules())
    assert {kind: sum(type(layer) is kind for layer in layers) for kind in kinds} == kinds


def test_a_layer_is_called_as_its_weight_was() -> None:
    module = to_module(exported("resnet")).content.module
    assert {"stem", "body_0", "body_2", "shortcut", "head"} == set(dict(module.named_children())) - {"max_pool2d"}


def test_batch_normalization_follows_the_batch_in_train_mode_with_onnx_momentum() -> None:
    ones = np.ones(3, np.float32)
    model = to_module(
        parsed(
            """<ir_version: 9, opset_import: ["" : 17]>
            net (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {
                y = BatchNormalization <momentum = 0.8, epsilon = 0.001> (x, s, b, m, v)
            }""",
            s=ones,
            b=0 * ones,
            m=0 * ones,
            v=ones,
        )
    )
    x = torch.randn(8, 3, 4, 4) + 5
    assert torch.allclose(call(model, x)["y"], x / np.sqrt(1.001), rtol=1e-5)
    trained = model.content.module.train()(x)["y"]
    assert abs(float(trained.mean())) < 1e-5
    (norm,) = [layer for layer in model.content.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert torch.allclose(norm.running_mean, 0.2 * x.mean((0, 2, 3)), rtol=1e-4)


def test_dropout_drops_in_train_mode_only() -> None:
    model = to_module(
        parsed("""<ir_version: 9, opset_import: ["" : 17]>
        net (float[N, 100] x) => (float[N, 100] y) <float ratio = {0.5}> { y = Dropout (x, ratio) }""")
    )
    x = torch.ones(4, 100)
    assert torch.equal(call(model, x)["y"], x)
    assert 0 < int((model.content.module.train()(x)["y"] == 0).sum()) < 400


def test_a_weight_that_two_nodes_read_is_one_parameter() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    model = to_module(
        parsed(
            """<ir_version: 9, opset_import: ["" : 17]>
            net (float[N, 4] x) => (float[N, 4] z) { y = MatMul (x, w) z = MatMul (y, w) }""",
            w=weight,
        )
    )
    assert len(list(model.content.module.parameters())) == 1
    x = torch.randn(2, 4)
    assert torch.allclose(call(model, x)["z"], x @ torch.tensor(weight @ weight), rtol=1e-4, atol=1e-5)


def test_shape_arithmetic_stays_in_numbers() -> None:
    model = to_module(
        parsed("""<ir_version: 9, opset_import: ["" : 17]>
        net (float[N, 6, 4] x) => (float[N, 3, 8] y)
            <int64 zero = {0}, int64[1] first = {0}, int64[2] rest = {3, -1}> {
            s = Shape (x)
            n = Gather (s, zero)
            m = Unsqueeze (n, first)
            t = Concat <axis = 0> (m, rest)
            y = Reshape (x, t)
        }""")
    )
    assert call(model, torch.randn(5, 6, 4))["y"].shape == (5, 3, 8)
    assert not list(model.content.module.buffers())
    assert export(model, batch=True).module()(torch.randn(7, 6, 4))["y"].shape == (7, 3, 8)


def test_shape_arithmetic_in_floats_survives_torch_export() -> None:
    model = to_module(
        parsed("""<ir_version: 9, opset_import: ["" : 17]>
        net (float[N, 4] x) => (float[N, 4] y, float[N] z, float[M, 4] u)
            <int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[1] width = {4}, int64[1] two = {2}> {
            s = Shape (x)
            n = Gather (s, zero)
            f = Cast <to = 1> (n)
            y = Div (x, f)
            r = Range (zero, n, one)
            z = Cast <to = 1> (r)
            m = Unsqueeze (n, first)
            k = Mul (m, two)
            t = Concat <axis = 0> (k, width)
            p = Shape <start = 1> (x)
            g = ReduceMean <axes = [0], keepdims = 1> (x)
            u = Expand (g, t)
        }""")
    )
    x = torch.randn(5, 4)
    found = export(model, batch=True).module()(x)
    assert torch.allclose(found["y"], x / 5)
    assert found["z"].tolist() == [0, 1, 2, 3, 4]
    assert torch.allclose(found["u"], x.mean(0).expand(10, 4))


def test_a_constant_that_asks_for_a_huge_tensor_is_not_computed_while_converting() -> None:
    model = to_module(
        parsed("""<ir_version: 9, opset_import: ["" : 17]>
        net (float[1] x) => (float[N] y, float[M] z) <int64[2] huge = {1000000000, 1000000}, int64 zero = {0},
            int64 far = {1000000000000}, int64 one = {1}> {
            y = ConstantOfShape (huge)
            r = Range (zero, far, one)
            z = Cast <to = 1> (r)
        }""")
    )
    assert {node.op for node in model.content.module.graph.nodes} == {
        "placeholder",
        "call_function",
        "call_method",
        "output",
    }


def test_names_that_are_no_identifiers_keep_their_names_outside() -> None:
    model = to_module(_renamed())
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["in.1", "class", "out:0"]
    assert list(inspect.signature(model.content.module.forward).parameters) == ["in_1", "_class"]
    assert call(model, torch.ones(2), torch.ones(2))["out:0"].tolist() == [2, 2]


def _renamed() -> Model:
    info = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("in.1", "class", "out:0")
    }
    node = helper.make_node("Add", ["in.1", "class"], ["out:0"])
    net = helper.make_graph([node], "net", [info["in.1"], info["class"]], [info["out:0"]])
    model = helper.make_model(net, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return graph.from_bytes(model.SerializeToString())


def test_the_source_stays_as_it_was_and_the_history_names_the_step() -> None:
    source = graph.from_bytes(nets.conv_net().SerializeToString())
    before = graph.to_bytes(source)
    converted = to_module(source)
    assert graph.to_bytes(source) == before
    assert [step.name for step in converted.history] == ["onnx-to-torch"]
    assert not converted.content.module.training


def test_example_inputs_are_the_same_in_every_run_and_within_tables() -> None:
    first, second = (to_module(exported("transformer")).content.example_inputs[0] for _ in range(2))
    assert torch.equal(first, second)
    assert int(first.min()) >= 0
    assert int(first.max()) < 50
    assert len(first) == 2


def test_a_loop_an_if_and_values_around_them_run() -> None:
    model = to_module(
        parsed("""<ir_version: 9, opset_import: ["" : 17]>
        net (int64 n, float[2] x) => (float[2] y, float[M, 2] all) <bool yes = {1}, float[2] w = {2, 3}> {
            y, all = Loop (n, yes, x) <body = step (int64 i, bool going, float[2] a)
                                            => (bool on, float[2] b, float[2] c) {
                on = Identity (going)
                one = Constant <value_int = 1> ()
                first = Less (i, one)
                b = If (first) <then_branch = t () => (float[2] p) { p = Mul (a, w) },
                                else_branch = e () => (float[2] q) { q = Add (a, x) }>
                c = Identity (b)
            }>
        }""")
    )
    x = torch.tensor([1.0, 2.0])
    outputs = call(model, torch.tensor(3), x)
    w = torch.tensor([2.0, 3.0])
    assert torch.equal(outputs["y"], x * w + x + x)
    assert torch.equal(outputs["all"], torch.stack([x * w, x * w + x, x * w + 2 * x]))


def test_sequences_run() -> None:
    model = to_module(
        parsed("""<ir_version: 9, opset_import: ["" : 17]>
        net (float[2] x, float[2] z) => (float[4] y) <int64 at = {-1}> {
            s = SequenceConstruct (x, z)
            last = SequenceAt (s, at)
            t = SequenceInsert (s, last)
            u = SequenceErase (t, at)
            y = ConcatFromSequence <axis = 0> (u)
        }""")
    )
    assert call(model, torch.zeros(2), torch.ones(2))["y"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_of_few_bits_mean_what_onnx_runtime_computes(bits: int, symmetric: bool) -> None:
    source = graph.from_bytes(nets.mlp().SerializeToString())
    model = WeightOnly(bits=bits, symmetric=symmetric).apply(source).model  # type: ignore[arg-type]
    assert largest_error(model, to_module(model), (torch.randn(3, 256),)) < 2e-2  # ORT rounds activations to int8


def test_a_quantized_network_means_what_onnx_runtime_computes() -> None:
    source = graph.from_bytes(nets.conv_net().SerializeToString())
    random = np.random.default_rng(0)
    images = [{"image": random.standard_normal((4, 1, 8, 8)).astype(np.float32)} for _ in range(4)]
    model = Int8Static().apply(source, Dataset("noise", "0", lambda: map(Batch, images))).model
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.graph)
    # Both round to the same steps; a sum in another order may take a number to the next one.
    assert largest_error(model, to_module(model), (torch.tensor(images[0]["image"]),)) < 2e-2


def test_a_dynamic_int8_lstm_means_what_onnx_runtime_computes() -> None:
    source = graph.from_bytes(nets.lstm_net().SerializeToString())
    model = Int8Dynamic().apply(source).model
    assert any(node.op_type == "DynamicQuantizeLSTM" for node in model.graph.graph)
    assert largest_error(model, to_module(model), (torch.randn(3, 12, 32),)) < 5e-2  # ORT rounds activations to int8


def test_operators_that_onnx_writes_with_others_are_written_out() -> None:
    model = to_module(
        parsed("""<ir_version: 13, opset_import: ["" : 26, "ai.onnx.preview" : 1]>
        net (float[1, 2, 3, 4] q, float[1, 2, 5, 4] k, float[1, 2, 5, 4] v) => (float[1, 2, 3, 4] y) {
            y = ai.onnx.preview.FlexAttention (q, k, v)
        }""")
    )
    q, k, v = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    expected = nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(call(model, q, k, v)["y"], expected, atol=1e-6)


def test_all_unsupported_operators_are_reported_at_once() -> None:
    source = parsed("""<ir_version: 9, opset_import: ["" : 17, "my.domain" : 1]>
        net (float[2] x) => (float[2] y) {
            a = my.domain.Magic (x)
            b = my.domain.Magic (a)
            c = Softmaxx (b)
            y = Relu <slope = 2> (c)
        }""")
    with pytest.raises(
        UnsupportedOperators, match=r"3 operators.*Relu with attribute slope.*Softmaxx.*did you mean.*Magic, at a, b"
    ):
        to_module(source)


def test_an_operator_older_than_its_entry_names_the_opset_that_is_supported() -> None:
    source = parsed("""<ir_version: 3, opset_import: ["" : 6]>
        net (float[2] x) => (float[2] y) { y = Add <broadcast = 1> (x, x) }""")
    with pytest.raises(UnsupportedOperators, match=r"Add of opset 6 \(opset 7 is supported: upgrade"):
        to_module(source)


def test_strings_are_refused_with_the_reason() -> None:
    source = parsed("""<ir_version: 9, opset_import: ["" : 20]>
        net (string[2] x) => (string[2] y) { y = Identity (x) }""")
    with pytest.raises(UnsupportedError, match="no tensors of strings"):
        to_module(source)


HOSTILE = {
    "a value that nothing computes": "y = Add (x, nowhere)",
    "an attribute of the wrong type": 'y = Softmax <axis = "first"> (x)',
    "a constant without a value": "c = Constant () y = Add (x, c)",
    "a required attribute left out": "y = Cast (x)",
    "more inputs than there are": "y = Relu (x, x)",
    "fewer inputs than are needed": "y = Add (x)",
    "a permutation of axes that are not there": "t = Constant <value_ints = [1]> () y = Transpose <perm = [7, 9]> (t)",
    "a wrong shape": "c = Constant <value_ints = [3]> () d = Constant <value_ints = [7]> () y = Reshape (c, d)",
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_broken_graph_gives_one_typed_error(fault: str) -> None:
    text = f"""<ir_version: 9, opset_import: ["" : 17]> net (float[2] x) => (float[2] y) {{ {HOSTILE[fault]} }}"""
    source = parsed(text)
    with pytest.raises(TightshipError):
        to_module(source)


def test_importing_the_bridge_imports_no_torch() -> None:
    code = "import sys, tightship.bridges.onnx_to_torch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_constant_that_is_a_slice_of_another_has_memory_of_its_own() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        net (float[n, 2] x) => (float[n, 2] y) <
            float[4, 2] table = {0, 1, 2, 3, 4, 5, 6, 7}, int64[1] start = {1}, int64[1] end = {2}
        > {
            row = Slice (table, start, end)
            y = Add (x, row)
        }"""
    )
    module = to_module(graph.from_bytes(model.SerializeToString())).content.module
    kept = {name: tensor for name, tensor in module.state_dict().items() if tensor.dtype == torch.float32}
    assert [tensor.tolist() for tensor in kept.values()] == [[[2.0, 3.0]]]
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in kept.values())
