"""A model that is quantized already is told from a float one, and how it is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tightship.core.graph import from_bytes
from tightship.measure.quantization import quantized_operators

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'


def told(body: str) -> list[str]:
    model = onnx.parser.parse_model(f"{HEAD}\n{body}")
    return [str(found) for found in quantized_operators(from_bytes(model.SerializeToString()).graph)]


INT8 = "float s = {0.1}, int8 z = {0}, uint8 uz = {128}, int8[2,2] w = {1, 2, 3, 4}, int32[2] b = {1, 2}"

MODELS = {
    "float": (
        "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }",
        [],
    ),
    "qdq": (
        f"""g (float[N,2] x) => (float[N,2] y) <{INT8}> {{
            q = QuantizeLinear(x, s, uz)
            d = DequantizeLinear(q, s, uz)
            wd = DequantizeLinear(w, s, z)
            bd = DequantizeLinear(b, s)
            y = Gemm(d, wd, bd)
        }}""",
        ["QDQ: int8 weights, uint8 activations (1 operator)"],
    ),
    "weights behind a transpose": (
        f"""g (float[N,2] x) => (float[N,2] y) <{INT8}> {{
            wd = DequantizeLinear(w, s, z)
            wt = Transpose(wd)
            y = MatMul(x, wt)
        }}""",
        ["weights only: int8 (1 operator)"],
    ),
    "weights rounded as the model runs": (
        """g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}, float s = {0.1}, int8 z = {0}> {
            wq = QuantizeLinear(w, s, z)
            wd = DequantizeLinear(wq, s, z)
            y = MatMul(x, wd)
        }""",
        ["weights only: int8 (1 operator)"],
    ),
    "table": (
        f"""g (int64[N] i) => (float[N,2] y) <{INT8}> {{
            wd = DequantizeLinear(w, s, z)
            y = Gather(wd, i)
        }}""",
        ["embeddings: int8 (1 operator)"],
    ),
    "integer operators": (
        f"""g (int8[N,2] x) => (int8[N,2] y) <{INT8}> {{
            y = QLinearMatMul(x, s, z, w, s, z, s, z)
        }}""",
        ["QOperator: int8 (1 operator)"],
    ),
    "dynamic": (
        f"""g (float[N,2] x) => (int32[N,2] y) <{INT8}> {{
            q, xs, xz = DynamicQuantizeLinear(x)
            y = MatMulInteger(q, w, xz, z)
        }}""",
        ["dynamic: int8 (1 operator)"],
    ),
    "low bits": (
        """g (float[N,32] x) => (float[N,2] y) <uint8[2,1,16] c, float[2,1] s> {
            h = com.microsoft.MatMulNBits <K = 32, N = 2, bits = 4, block_size = 32> (x, c, s)
            y = Relu(h)
        }""",
        ["weights only: 4 bits in blocks of 32 (1 operator)"],
    ),
}


@pytest.mark.parametrize(("body", "wanted"), MODELS.values(), ids=MODELS)
def test_how_a_model_is_quantized_is_told(body: str, wanted: list[str]) -> None:
    assert told(body) == wanted


def test_the_most_frequent_way_comes_first() -> None:
    body = f"""g (float[N,2] x, int64[N] i) => (float[N,2] y) <{INT8}> {{
        wd = DequantizeLinear(w, s, z)
        e = Gather(wd, i)
        a = MatMul(x, wd)
        b2 = MatMul(a, wd)
        y = Add(b2, e)
    }}"""
    assert told(body) == ["weights only: int8 (2 operators)", "embeddings: int8 (1 operator)"]


def test_blocks_of_dequantize_linear_are_told() -> None:
    floats = onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [2, 2], np.ones(4, np.float32))
    codes = onnx.helper.make_tensor("c", onnx.TensorProto.INT4, [32, 2], np.zeros(64, np.int8))
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["c", "s"], ["w"], axis=0, block_size=16),
        onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [info("x", 1, ["N", 32])], [info("y", 1, ["N", 2])], initializer=[codes, floats]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    found = quantized_operators(from_bytes(model.SerializeToString()).graph)
    assert [str(entry) for entry in found] == ["weights only: int4 in blocks of 16 (1 operator)"]
