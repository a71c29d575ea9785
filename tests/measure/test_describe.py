"""What `inspect` tells: counts against numbers worked out by hand, and one model per risk."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tightship import formats
from tightship.core import graph
from tightship.core.artifact import Artifact
from tightship.core.model import Model
from tightship.measure.describe import Description, describe

HEADER = (
    '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1], producer_name: "lab", producer_version: "2.0">\n'
)


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def model(body: str, header: str = HEADER, **weights: np.ndarray) -> Model:
    proto = onnx.parser.parse_model(header + body)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return graph.from_bytes(proto.SerializeToString())


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"12345")
    return Artifact(path, "onnx")


def described(source: Model, artifact: Artifact) -> Description:
    return describe(source, artifact)


def kinds(source: Model, artifact: Artifact) -> set[str]:
    return {risk.kind for risk in described(source, artifact).risks}


def test_the_plain_facts_are_told(artifact: Artifact) -> None:
    source = model("g (float[n, 8] x) => (float[n, 4] y) { t = MatMul(x, w)  y = Relu(t) }", w=zeros(8, 4))
    found = described(source, artifact)
    assert (found.format, found.form, found.file_bytes) == ("onnx", "graph", 5)
    assert (found.inputs, found.outputs) == (source.inputs, source.outputs)
    assert (found.opsets["ai.onnx"], found.ir_version, found.producer) == (17, 8, "lab 2.0")
    assert found.operators == {"MatMul": 1, "Relu": 1}
    assert (found.n_parameters, found.weight_bytes) == (32, {"float32": 128})


def test_a_description_goes_to_json_and_back(artifact: Artifact) -> None:
    found = described(model("g (float[n, 8] x) => (float[n, 4] y) { y = MatMul(x, w) }", w=zeros(8, 4)), artifact)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Description) == found


def test_largest_weights_and_costliest_operators_come_first(artifact: Artifact) -> None:
    body = "g (float[n, 8] x) => (float[n, 2] y) { [first] t = MatMul(x, a)  [second] y = MatMul(t, b) }"
    found = described(model(body, a=zeros(8, 32), b=zeros(32, 2)), artifact)
    assert [(weight.name, weight.size_bytes) for weight in found.largest_weights] == [("a", 1024), ("b", 256)]
    assert [(cost.name, cost.macs) for cost in found.costliest] == [("first", 256), ("second", 64)]


def test_shapes_and_indices_are_no_parameters_but_constants_in_nodes_are(artifact: Artifact) -> None:
    constant, reshape = "c = Constant<value = float[2] {1, 2}>()", "t = Reshape(x, s)"
    body = f"g (float[n, 8] x) => (float[n, 8] y) {{ {constant}  {reshape}  y = Identity(t) }}"
    assert described(model(body, s=np.array([-1, 8])), artifact).n_parameters == 2


def test_packed_weights_count_each_weight(artifact: Artifact) -> None:
    product = "com.microsoft.MatMulNBits<K=64, N=6, bits=4, block_size=32>"
    body = f"g (float[n, 64] x) => (float[n, 6] y) {{ y = {product}(x, w, s) }}"
    found = described(model(body, w=zeros(6, 2, 16, dtype=np.uint8), s=zeros(12)), artifact)
    assert found.n_parameters == 64 * 6 + 12
    assert found.macs == 64 * 6


@pytest.mark.parametrize(
    ("body", "weights", "macs"),
    [
        # each of 6x6 output elements of 5 channels sums 3 channels times a 3x3 kernel
        ("g (float[n,3,8,8] x) => (float[n,5,6,6] y) { y = Conv(x, w) }", {"w": zeros(5, 3, 3, 3)}, 6 * 6 * 5 * 3 * 9),
        # depthwise: each output element sums its own channel only
        ("g (float[n,4,8,8] x) => (float[n,4,8,8] y) { y = Conv<group=4, pads=[1,1,1,1]>(x, w) }",
         {"w": zeros(4, 1, 3, 3)}, 8 * 8 * 4 * 9),
        ("g (float[n,4,8,8] x) => (float[n,2,16,16] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
         {"w": zeros(4, 2, 2, 2)}, 4 * 8 * 8 * 2 * 4),
        ("g (float[n,8] x) => (float[n,4] y) { y = Gemm<transB=1>(x, w) }", {"w": zeros(4, 8)}, 32),
        ("g (float[8,3] x) => (float[3,4] y) { y = Gemm<transA=1>(x, w) }", {"w": zeros(8, 4)}, 3 * 8 * 4),
        ("g (float[n,5,8] x) => (float[n,5,5] y) { t = Transpose<perm=[0,2,1]>(x)  y = MatMul(x, t) }", {}, 5 * 5 * 8),
        # 7 steps of 4 gates of 6 from 3 inputs and 6 states
        ("g (float[7,n,3] x) => (float[7,1,n,6] y) { y = LSTM<hidden_size=6>(x, w, r) }",
         {"w": zeros(1, 24, 3), "r": zeros(1, 24, 6)}, 7 * 24 * (3 + 6)),
        ("g (float[7,n,3] x) => (float[7,1,n,6] y) { y = GRU<hidden_size=6>(x, w, r) }",
         {"w": zeros(1, 18, 3), "r": zeros(1, 18, 6)}, 7 * 18 * (3 + 6)),
        ("g (float[2,3,4] x) => (float[2,3,5] y) { y = Einsum<equation=\"bij,bjk->bik\">(x, w) }",
         {"w": zeros(2, 4, 5)}, 2 * 3 * 4 * 5),
        # after an operator that ONNX itself cannot infer
        ("g (float[n,64] x) => (float[n,3] y) {"
         " t = com.microsoft.MatMulNBits<K=64, N=32, bits=4, block_size=32>(x, p, s)"
         " u = com.microsoft.FastGelu(t)  y = MatMul(u, w) }",
         {"p": zeros(32, 2, 16, dtype=np.uint8), "s": zeros(64), "w": zeros(32, 3)}, 64 * 32 + 32 * 3),
        ("g (float[n,8] x) => (float[n,8] y) { y = Relu(x) }", {}, 0),
    ],
    ids=["conv", "depthwise", "transposed", "gemm", "gemm-transposed", "matmul", "lstm", "gru", "einsum", "low-bit",
         "none"],
)  # fmt: skip
def test_multiply_accumulates_are_those_of_one_item(
    artifact: Artifact, body: str, weights: dict[str, np.ndarray], macs: int
) -> None:
    found = described(model(body, **weights), artifact)
    assert (found.macs, found.not_counted) == (macs, ())


def test_operators_of_unknown_shape_are_told_and_not_guessed(artifact: Artifact) -> None:
    transform = "com.microsoft.Rfft<signal_ndim=1, onesided=1, normalized=0>"
    body = f"g (float[n,8] x) => (float[n,k] y) {{ u = {transform}(x)  [lost] y = MatMul(u, u) }}"
    found = described(model(body), artifact)
    assert (found.macs, found.not_counted) == (0, ("lost",))


def test_shapes_that_the_graph_computes_from_shapes_are_followed(artifact: Artifact) -> None:
    """The way exporters of opset 9 flatten: Reshape(x, [Shape(x)[0], -1])."""
    body = (
        "g (float[n,3,4] x) => (float[n,5] y) { s = Shape(x)  i = Constant<value = int64 {0}>()  b = Gather(s, i)"
        " u = Unsqueeze(b, z)  m = Constant<value = int64[1] {-1}>()  t = Concat<axis=0>(u, m)"
        " f = Reshape(x, t)  y = MatMul(f, w) }"
    )
    assert described(model(body, w=zeros(12, 5), z=np.array([0])), artifact).macs == 12 * 5


def test_a_vector_declared_with_2_to_the_32_elements_is_not_unrolled(artifact: Artifact) -> None:
    """ONNX's data propagation does, and fills the memory."""
    body = "g (float[1] x, float[4294967296] c) => (float[k] y) { y = Add(x, c) }"
    assert described(model(body), artifact).macs == 0


def test_a_constant_of_sixteen_gib_is_not_computed(artifact: Artifact) -> None:
    body = "g (float[1] x) => (float[4294967296] y) { c = ConstantOfShape(n)  y = Add(x, c) }"
    assert described(model(body, n=np.array([2**32])), artifact).operators == {"ConstantOfShape": 1, "Add": 1}


# -- risks --------------------------------------------------------------------------------------------------------

BRANCHES = (
    "y = If(c) <then_branch = t () => (float[n,8] a) { [a] a = Neg(x) }, "
    "else_branch = e () => (float[n,8] b) { [b] b = Abs(x) }>"
)
NORMALIZATION = "y, m, v = BatchNormalization<training_mode=1>(x, s, s, s, s)"
QUANTIZATION = "q = QuantizeLinear(x, s)  [b] y = DequantizeLinear(q, s)"
PLAIN = "g (float[n, 8] x) => (float[n, 8] y) { [op] y = Relu(x) }"


def test_a_plain_model_has_no_risks(artifact: Artifact) -> None:
    assert kinds(model(PLAIN), artifact) == set()


@pytest.mark.parametrize(
    ("kind", "body", "weights"),
    [
        ("dynamic-shape", PLAIN.replace("8", "t"), {}),
        ("fixed-batch", PLAIN.replace("n,", "1,"), {}),
        ("float64", PLAIN.replace("float", "double"), {}),
        ("float64", PLAIN.replace("y = Relu(x)", "t = Cast<to=11>(x)  [b] u = Neg(t)  [c] y = Cast<to=1>(u)"), {}),
        ("control-flow", PLAIN.replace("y = Relu(x)", BRANCHES), {"c": np.array(True)}),
        ("custom-domain", PLAIN.replace("Relu", "com.microsoft.Gelu"), {}),
        ("training-mode", PLAIN.replace("y = Relu(x)", NORMALIZATION), {"s": zeros(8)}),
        ("training-mode", PLAIN.replace("Relu(x)", "Dropout(x, r, t)"), {"r": np.float32(0.5), "t": np.array(True)}),
        ("random", PLAIN.replace("y = Relu(x)", "t = RandomNormalLike(x)  [b] y = Add(x, t)"), {}),
        ("quantized", PLAIN.replace("y = Relu(x)", QUANTIZATION), {"s": np.float32(1)}),
        ("huge-embedding", "g (int64[n] i) => (float[n, 64] y) { [op] y = Gather(w, i) }", {"w": zeros(8192, 64)}),
        ("float16-overflow", PLAIN.replace("Relu(x)", "Add(x, w)"), {"w": np.float32([7e4])}),
        ("nan", PLAIN.replace("Relu(x)", "Add(x, w)"), {"w": np.float32(["nan"])}),
        ("infinite", PLAIN.replace("Relu(x)", "Add(x, w)"), {"w": np.float32(["-inf"])}),
        ("unnamed", PLAIN.replace("[op] ", ""), {}),
        ("constant-output", "g (float[n, 8] x) => (float[n, 8] y, float[1] z) { [a] y = Relu(x)  [b] z = Neg(w) }",
         {"w": zeros(1)}),
        ("unused-weights", PLAIN, {"w": zeros(3)}),
    ],
)  # fmt: skip
def test_each_risk_is_seen_alone(artifact: Artifact, kind: str, body: str, weights: dict[str, np.ndarray]) -> None:
    found = described(model(body, **weights), artifact).risks
    expected = {kind, "quantized"} if kind == "quantized" else {kind}
    assert {risk.kind for risk in found} == expected
    assert all(risk.finding and risk.advice.endswith(".") for risk in found)


def test_an_old_opset_is_a_risk(artifact: Artifact) -> None:
    assert kinds(model(PLAIN, HEADER.replace(": 17", ": 11")), artifact) == {"old-opset"}


def test_an_output_that_a_branch_makes_from_an_input_depends_on_it(artifact: Artifact) -> None:
    body = PLAIN.replace("y = Relu(x)", BRANCHES)
    assert "constant-output" not in kinds(model(body, c=np.array(True)), artifact)


def test_every_real_model_is_described(data_dir: Path) -> None:
    for path in sorted(data_dir.rglob("*.onnx")):
        source = formats.recognise(str(path))
        found = describe(formats.read(source), source)
        assert found.macs and found.n_parameters and not found.not_counted, path
        assert sum(found.weight_bytes.values()) <= found.file_bytes, path


# -- modules ------------------------------------------------------------------------------------------------------


def test_a_module_is_described_by_its_parts(artifact: Artifact) -> None:
    torch = pytest.importorskip("torch")
    from tightship.core.torch_module import from_torch

    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    found = describe(from_torch(net, (torch.zeros(1, 4),)), artifact)
    assert (found.form, found.macs) == ("module", None)
    assert found.operators == {"Linear": 2, "ReLU": 1}
    assert (found.n_parameters, found.weight_bytes) == (4 * 8 + 8 + 8 * 2 + 2, {"float32": 232})
    assert found.largest_weights[0].name == "0.weight"
    assert found.risks == ()


def test_risks_of_a_module_are_seen(artifact: Artifact) -> None:
    torch = pytest.importorskip("torch")
    from tightship.core.torch_module import from_torch

    net = torch.nn.Linear(4, 2).eval()
    source = from_torch(net, (torch.zeros(1, 4),))
    with torch.no_grad():
        net.weight[0, 0], net.weight[0, 1] = float("nan"), 1e5
    net.train()
    assert {risk.kind for risk in describe(source, artifact).risks} == {"nan", "training-mode"}
