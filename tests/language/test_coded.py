"""The benchmark's judge: floats read back from MatMulNBits are those that the engine computes with."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from benchmarks.language.coded import Coded, replace, simulated
from benchmarks.language.score import Judge

BLOCK = 32


def product() -> onnx.ModelProto:
    """A MatMul of `[n, 64]` with a weight `[64, 5]`."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> net (float[n, 64] x, float[64, 5] w) => (float[n, 5] y) '
        "{ y = MatMul(x, w) }"
    )
    model.graph.node[0].name = "product"
    return model


def coded(bits: int, zero_points: type[np.number]) -> Coded:
    random = np.random.default_rng(bits)
    codes = random.integers(0, 2**bits, (5, 2, BLOCK)).astype(np.uint8)
    zeros = random.uniform(0, 2**bits - 1, (5, 2)).astype(zero_points)
    return Coded(codes, random.uniform(0.5, 1, (5, 2)).astype(np.float32), zeros)


def outputs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y: np.ndarray = session.run(None, {"x": x})[0]
    return y


@pytest.mark.parametrize("zero_points", [np.uint8, np.float32])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_simulation_computes_what_the_codes_say(bits: int, zero_points: type[np.number]) -> None:
    model, weight = product(), coded(bits, zero_points)
    del model.graph.input[1:]
    model.graph.initializer.extend(replace(model.graph.node[0], weight, bits))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    floats = (weight.codes.astype(np.float64) - weight.zero_points[..., None]) * weight.scales[..., None]
    expected = x @ floats.reshape(5, 64).T
    largest = np.abs(expected).max()
    if (bits, zero_points) != (8, np.float32):  # which the engine does not have
        in_the_engine = outputs(model, x)  # rounds activations to int8
        np.testing.assert_allclose(in_the_engine, expected, atol=2e-2 * largest)
    np.testing.assert_allclose(outputs(simulated(model), x), expected, atol=1e-5 * largest)


def test_the_float_model_has_no_divergence_from_itself(tmp_path) -> None:
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((7, 7)).astype(np.float32), "table")
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> net (int64[n, m] input_ids) => (float[n, m, 7] logits) '
        "{ logits = Gather(table, input_ids) }"
    )
    model.graph.initializer.append(weight)
    onnx.save(model, tmp_path / "model.onnx")
    judge = Judge(tmp_path / "model.onnx", np.random.default_rng(1).integers(0, 7, (4, 9)))
    assert judge.engine(tmp_path / "model.onnx").kl == 0
    assert judge.engine(tmp_path / "model.onnx").perplexity == judge.float.perplexity > 1
