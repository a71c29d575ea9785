"""Inferred shapes, with ONNX Runtime as referee."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tightship import formats
from tightship.core import graph
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.measure.generate import generate
from tightship.measure.shapes import Shape, infer_shapes


def actual_shapes(model: Model) -> dict[str, Shape]:
    """Run one item with every value of the main graph as an output."""
    exposed = model.graph.clone()
    exposed.graph.outputs.clear()
    exposed.graph.outputs.extend(value for node in exposed.graph for value in node.outputs if value.name)
    with open_session(graph.from_ir(exposed), Target()) as session:
        outputs = session.run(next(generate(model, 1, 0).open()).inputs)
    return {name: array.shape for name, array in outputs.items()}


def test_inferred_shapes_are_those_that_the_engine_computes(data_dir: Path) -> None:
    for path in sorted(data_dir.rglob("*.onnx")):
        model = formats.read(formats.recognise(str(path)))
        inferred, actual = infer_shapes(model), actual_shapes(model)
        assert {name: inferred.get(name) for name in actual} == actual, path


def test_contributed_operators_have_the_shapes_that_the_engine_computes() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[b, s, 64] x) => (float[b, s, 48] y) {
      a = com.microsoft.MatMulNBits <K = 64, N = 64, bits = 4, block_size = 32> (x, packed, scales)
      norm, unused1, unused2, sum = com.microsoft.SkipLayerNormalization (a, x, gain)
      act = com.microsoft.FastGelu (norm)
      product = com.microsoft.FusedMatMul <transB = 1> (act, m)
      added = com.microsoft.Gelu (sum)
      simple = SimplifiedLayerNormalization (added, gain)
      image = Reshape (x, image_shape)
      fused = com.microsoft.FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (image, kernel)
      y = Identity (product)
    }"""
    proto = onnx.parser.parse_model(text)
    weights = {
        "packed": np.zeros((64, 2, 16), np.uint8),
        "scales": np.ones(128, np.float32),
        "gain": np.ones(64, np.float32),
        "m": np.zeros((48, 64), np.float32),
        "image_shape": np.array([1, 1, 16, -1]),
        "kernel": np.zeros((2, 1, 3, 3), np.float32),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    model = graph.from_bytes(proto.SerializeToString())
    inferred = infer_shapes(model, {"b": 1, "s": 16})
    for name, shape in actual_shapes(model).items():
        if not name.startswith("unused"):
            assert inferred[name] == shape, name


def test_quantized_operators_have_the_shapes_that_the_engine_computes() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[n, 3, 4, 4] x) => (float[n, 6, 1, 1] y) {
      q = QuantizeLinear (x, s, z)
      added = com.microsoft.QLinearAdd (q, s, z, q, s, z, s, z)
      joined = com.microsoft.QLinearConcat <axis = 1> (s, z, added, s, z, q, s, z)
      pooled = com.microsoft.QLinearGlobalAveragePool (joined, s, z, s, z)
      y = DequantizeLinear (pooled, s, z)
    }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "s"))
    proto.graph.initializer.append(numpy_helper.from_array(np.uint8(128), "z"))
    model = graph.from_bytes(proto.SerializeToString())
    inferred, actual = infer_shapes(model), actual_shapes(model)
    assert {name: inferred.get(name) for name in actual} == actual


def test_shapes_of_branches_are_inferred() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 8] x, bool c) => (float[k, 1] y) {
      t = If (c) <then_branch = a () => (float[p, 8] u) { u = Neg (x) },
                  else_branch = b () => (float[q, 8] v) { v = Abs (x) }>
      y = ReduceSum (t, axes)
    }"""
    proto = onnx.parser.parse_model(text.replace("axes)", "axis)"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    shapes = infer_shapes(graph.from_bytes(proto.SerializeToString()), {"n": 3})
    assert (shapes["u"], shapes["t"], shapes["y"]) == ((3, 8), (3, 8), (3, 1))


def test_stale_shapes_in_the_file_are_not_believed() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 8] x) => (float[n, 8] y) { t = Neg(x)  y = Abs(t) }'
    )
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, [5, 5]))
    assert infer_shapes(graph.from_bytes(proto.SerializeToString()))["t"] == (1, 8)
