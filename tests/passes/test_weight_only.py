"""Weights in 4 and 8 bits: ONNX Runtime and OpenVINO compute what the codes stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nets import mlp
from tests.passes.running import made_up_inputs, model_of, op_types, relative_error, run, written
from tightship import formats
from tightship.core import graph
from tightship.core.model import Model
from tightship.errors import UsageError
from tightship.passes.simplify import Simplify
from tightship.passes.weight_only import WeightOnly
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.encoding import Encoding
from tightship.rounding.packing import unpack

ENGINE_ERROR = {"onnxruntime": 0.01, "openvino": 1e-5}
"""Against a float product with the same codes. ONNX Runtime rounds each block of activations to int8: a step is 1/127
of the largest of 32 to 128 normal numbers, 2 to 3 standard deviations, which makes 4e-3 to 8e-3. OpenVINO computes in
float32."""

SHAPES = [(64, 64), (96, 33), (130, 37), (1024, 5)]
"""K and N: a multiple of the block, and not; odd; long and narrow."""

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def compressed(model: Model, **fields: object) -> Model:
    result = WeightOnly(**fields).apply(model)  # type: ignore[arg-type]
    assert result.changed
    return result.model


def stored_weight(model: Model, name: str) -> np.ndarray:
    """Return `[N, K]` as the file stores it, read by the specification of MatMulNBits rather than by our own code."""
    (node,) = [node for node in model.graph.graph if node.op_type == "MatMulNBits" and node.name == name]
    k, bits, block = (node.attributes.get_int(key) for key in ("K", "bits", "block_size"))
    codes, scales = (value.const_value.numpy() for value in node.inputs[1:3])
    n_rows, n_blocks, _ = codes.shape
    assert n_blocks == -(-k // block)
    zeros = np.full(scales.shape, 2 ** (bits - 1))
    if len(node.inputs) > 3:
        zeros = unpack(node.inputs[3].const_value.numpy(), bits, n_blocks)
    numbers = unpack(codes, bits, block).astype(np.float32)
    return ((numbers - zeros[..., None]) * scales[..., None]).reshape(n_rows, -1)[:, :k]


@pytest.mark.parametrize("engine", list(ENGINE_ERROR))
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_engines_compute_what_the_codes_stand_for(
    engine: str, symmetric: bool, block: int, bits: int, k: int, n: int
) -> None:
    pytest.importorskip(engine)
    model = written(f"net (float[N, {k}] x) => (float[N, {n}] y) {{ y = MatMul (x, w) }}", w=normal(k, n))
    after = compressed(model, bits=bits, block=block, symmetric=symmetric)
    inputs = {"x": normal(40, k)}
    wanted = inputs["x"] @ stored_weight(after, "y").T
    assert relative_error(run(after, inputs, engine)["y"], wanted) < ENGINE_ERROR[engine]


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_one_sign_do_not_saturate(bits: int) -> None:
    """Large codes times large activations, all of one sign, are what overflows a kernel that sums in 16 bits."""
    model = written(
        "net (float[N, 512] x) => (float[N, 64] y) { y = MatMul (x, w) }", w=np.clip(np.abs(normal(512, 64)), 0.5, 1)
    )
    after = compressed(model, bits=bits)
    inputs = {"x": np.clip(np.abs(normal(16, 512)), 0.5, 1)}
    # Half of the activations are 0.5 and all round the same way, by up to half a step of 1/127; 15 % if it saturated.
    assert relative_error(run(after, inputs)["y"], inputs["x"] @ stored_weight(after, "y").T) < 0.005


@pytest.mark.parametrize(
    ("bits", "block", "symmetric", "largest"),
    [(4, 32, False, 0.085), (4, 32, True, 0.09), (4, 128, False, 0.105), (8, 32, False, 0.006), (8, 128, True, 0.008)],
)
def test_weights_are_as_close_as_their_width_allows(bits: int, block: int, symmetric: bool, largest: float) -> None:
    """Normal numbers in a block of 32 span 4 standard deviations: 15 steps of 0.27 are off by 0.08 on average."""
    weight = normal(256, 512)
    found = quantize_blocks(weight, Encoding(bits, block, symmetric)).dequantize(512)
    assert relative_error(found, weight) < largest


def test_clipping_a_block_is_better_than_keeping_its_range() -> None:
    weight = rng.standard_t(5, (64, 1024)).astype(np.float32)
    found = quantize_blocks(weight, Encoding(4, 128, symmetric=True))
    blocks = weight.reshape(64, 8, 128)
    whole = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1) / -8
    plain = np.clip(np.rint(blocks / whole), -8, 7) * whole
    assert relative_error(found.dequantize(1024), weight) < 0.97 * relative_error(plain.reshape(64, 1024), weight)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([32, 64, 128]),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 300),
)
def test_no_weight_is_further_off_than_rounding_and_clipping_explain(
    seed: int, bits: int, block: int, symmetric: bool, n_rows: int, n_columns: int
) -> None:
    random = np.random.default_rng(seed)
    weight = (random.standard_normal((n_rows, n_columns)) * 10.0 ** random.integers(-6, 6)).astype(np.float32)
    found = quantize_blocks(weight, Encoding(bits, block, symmetric))
    off = np.abs(found.dequantize(n_columns) - weight)
    steps = np.repeat(np.abs(found.scales), block, axis=1)[:, :n_columns]
    # Half a step by rounding (and half by rounding the zero point); beyond a range that was cut to 0.8 of itself a
    # quarter of what is left, and beyond the last positive code of a symmetric range one step.
    cut = 0.25 * 2**bits if bits < 8 else 0
    assert np.all(off <= (1.5 + cut) * steps + 1e-30)
    assert found.codes.max() < 2**bits


@pytest.mark.parametrize("value", [0.0, 1e-42, -3.0, 3e38])
def test_blocks_of_one_number_survive(value: float) -> None:
    weight = np.full((3, 70), value, np.float32)
    for symmetric in (False, True):
        found = quantize_blocks(weight, Encoding(4, 32, symmetric)).dequantize(70)
        # A clipped range gains nothing here; 1e-42 is below what float32 divides by, and becomes zero.
        np.testing.assert_allclose(found, weight, rtol=1e-6 if abs(value) > 1 else 0, atol=1e-40)


@pytest.mark.parametrize("layout", ["<transB = 1> (x, w, b)", "<transB = 1> (x, w)"])
@pytest.mark.parametrize("engine", list(ENGINE_ERROR))
def test_gemm_keeps_its_bias(layout: str, engine: str) -> None:
    pytest.importorskip(engine)
    model = written(
        f"net (float[N, 64] x) => (float[N, 33] y) {{ y = Gemm {layout} }}", w=normal(33, 64), b=10 * normal(33)
    )
    after = compressed(model, bits=8)
    inputs = made_up_inputs(model)
    assert relative_error(run(after, inputs, engine)["y"], run(model, inputs)["y"]) < 0.02


@pytest.mark.parametrize("engine", list(ENGINE_ERROR))
@pytest.mark.parametrize(("bits", "symmetric"), [(4, False), (4, True), (8, False), (8, True)])
def test_embeddings_are_looked_up_exactly(engine: str, bits: int, symmetric: bool) -> None:
    pytest.importorskip(engine)
    weight = normal(100, 64)
    model = written("net (int64[N, 3] ids) => (float[N, 3, 64] y) { y = Gather (w, ids) }", w=weight)
    after = compressed(model, bits=bits, symmetric=symmetric)
    assert op_types(after) == ["GatherBlockQuantized"]
    ids = np.array([[0, 99, 5], [7, 7, 50]])
    wanted = quantize_blocks(weight, Encoding(bits, 32, symmetric)).dequantize(64)[ids]
    # One subtraction and one product per number, in float32.
    np.testing.assert_allclose(run(after, {"ids": ids}, engine)["y"], wanted, rtol=1e-6, atol=1e-6)


def test_an_embedding_whose_rows_do_not_fill_blocks_is_left() -> None:
    model = written("net (int64[N] ids) => (float[N, 40] y) { y = Gather (w, ids) }", w=normal(100, 40))
    assert WeightOnly().operators(model) == ()


def test_an_embedding_that_is_also_the_last_layer_is_found_in_both_places() -> None:
    model = written(
        """net (int64[N] ids) => (float[N, 256] y) {
            a = Gather (w, ids)
            b = Transpose <perm = [1, 0]> (w)
            y = MatMul (a, b)
        }""",
        w=normal(256, 64),
    )
    after = compressed(model, bits=8)
    assert op_types(after) == ["GatherBlockQuantized", "MatMulNBits"]
    inputs = made_up_inputs(model)
    assert relative_error(run(after, inputs)["y"], run(model, inputs)["y"]) < 0.02


def test_what_onnxruntime_needs_to_be_fast_is_written_out() -> None:
    after = compressed(model_of(mlp()))
    products = [node for node in after.graph.graph if node.op_type == "MatMulNBits"]
    assert len(products) == 3
    for node in products:
        assert node.attributes.get_int("accuracy_level") == 4
        assert len(node.inputs) <= 4  # no g_idx, which gave wrong outputs
    assert after.graph.opset_imports["com.microsoft"] == 1


def test_symmetric_weights_have_no_zero_points() -> None:
    after = compressed(model_of(mlp()), symmetric=True)
    assert not any("zero" in name for name in after.graph.graph.initializers)


@pytest.mark.parametrize(
    ("fields", "bytes_per_weight"),
    [({"bits": 4, "block": 32}, 0.641), ({"bits": 4, "block": 128, "symmetric": True}, 0.535), ({"bits": 8}, 1.16)],
)
def test_a_weight_takes_the_bytes_it_should(fields: dict[str, object], bytes_per_weight: float) -> None:
    model = written("net (float[N, 256] x) => (float[N, 256] y) { y = MatMul (x, w) }", w=normal(256, 256))
    assert graph.initializer_bytes(compressed(model, **fields).graph) <= bytes_per_weight * 256 * 256


@pytest.mark.parametrize("fields", [{"bits": 3}, {"bits": 16}, {"block": 48}])
def test_other_settings_are_refused(fields: dict[str, int]) -> None:
    (name, value), *_ = fields.items()
    with pytest.raises(UsageError, match=f"weight-only: {name} must be one of .*, found {value}"):
        WeightOnly(**fields)  # type: ignore[arg-type]


def test_both_engines_agree_on_a_real_model(data_dir: Path) -> None:
    pytest.importorskip("openvino")
    model = Simplify().apply(formats.read(formats.recognise(str(data_dir / "mlperf_tiny_alibaba_onnx/model_ad.onnx"))))
    after = compressed(model.model, bits=8)
    assert len(graph.to_bytes(after)) < 0.4 * len(graph.to_bytes(model.model))
    inputs = made_up_inputs(after)
    wanted = run(model.model, inputs)["output1"]
    for engine in ENGINE_ERROR:
        # Six layers, each at most 0.01 off.
        assert relative_error(run(after, inputs, engine)["output1"], wanted) < 0.03


def test_a_product_whose_bias_another_product_computes_is_rewritten_behind_it() -> None:
    weights = {name: np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) for name in ("w", "v")}
    text = "n (float[N, 64] x) => (float[N, 64] y) { a = Gemm (x, w) y = Gemm (x, v, a) }"
    model = written(text, **weights)
    inputs = made_up_inputs(model, batch=32)
    made = WeightOnly(bits=8, block=32).apply(model).model
    assert relative_error(run(made, inputs)["y"], run(model, inputs)["y"]) < 0.02
