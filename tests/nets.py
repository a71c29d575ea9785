"""Small networks for tests, written as ONNX text with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

__all__ = ["conv_net", "lstm_net", "mlp", "save"]


def conv_net(batch: str = "N", seed: int = 0) -> onnx.ModelProto:
    """Two convolutions with ReLU and a classifier: image [N, 1, 8, 8] -> logits [N, 4]."""
    rng = np.random.default_rng(seed)
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        net (float[{batch}, 1, 8, 8] image) => (float[{batch}, 4] logits) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2, b2)
            d = Relu (c)
            e = GlobalAveragePool (d)
            f = Flatten (e)
            logits = Gemm <transB = 1> (f, w3, b3)
        }}"""
    )
    shapes = {"w1": (16, 1, 3, 3), "b1": (16,), "w2": (32, 16, 3, 3), "b2": (32,), "w3": (4, 32), "b3": (4,)}
    return _with_weights(model, shapes, rng)


def mlp(width: int = 256, seed: int = 0) -> onnx.ModelProto:
    """Three matrix products: x [N, width] -> y [N, 8]."""
    rng = np.random.default_rng(seed)
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        net (float[N, {width}] x) => (float[N, 8] y) {{
            a = MatMul (x, w1)
            b = Relu (a)
            c = MatMul (b, w2)
            d = Relu (c)
            y = Gemm (d, w3, b3)
        }}"""
    )
    shapes = {"w1": (width, width), "w2": (width, width), "w3": (width, 8), "b3": (8,)}
    return _with_weights(model, shapes, rng)


def lstm_net(seed: int = 0) -> onnx.ModelProto:
    """An LSTM of 48 units and a classifier on its last state: x [N, 12, 32] -> y [N, 8]."""
    rng = np.random.default_rng(seed)
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        net (float[N, 12, 32] x) => (float[N, 8] y) <int64[1] first = {0}> {
            a = Transpose <perm = [1, 0, 2]> (x)
            b, c = LSTM <hidden_size = 48> (a, w, r, wb)
            d = Squeeze (c, first)
            y = Gemm <transB = 1> (d, w2, b2)
        }"""
    )
    shapes = {"w": (1, 192, 32), "r": (1, 192, 48), "wb": (1, 384), "w2": (8, 48), "b2": (8,)}
    return _with_weights(model, shapes, rng)


def save(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """Write the model and return its path."""
    onnx.save(model, folder / name)
    return folder / name


def _with_weights(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], rng: np.random.Generator
) -> onnx.ModelProto:
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        array = (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return model
