"""How long products with coded weights take on this machine, for every shape and number of bits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from tightship.core.graph import from_ir
from tightship.core.progress import Progress
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.engines.onnxruntime import OnnxRuntime
from tightship.passes.codable import coded_operators
from tightship.passes.coded_weights import CodedWeight, WeightWriter, coded_arrays
from tightship.passes.editing import infer_shapes
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.encoding import Encoding

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["product_times"]

_ROUNDS = 15
_ROUND_S = 0.002

Shape = tuple[int, int]


def product_times(
    shapes: Sequence[Shape], encodings: Sequence[Encoding], n_rows: int, progress: Progress
) -> np.ndarray:
    """Return milliseconds `[shapes, encodings + 1]` of `[n_rows, K] @ [K, N]` in ONNX Runtime, the last in float32.

    `shapes` are (K, N). All encodings of a shape take turns, in several rounds; the medians are returned. Weights are
    random: no kernel's time depends on their values.
    """
    different = sorted(set(shapes))
    times = {}
    with progress.step("timing products", len(different)) as advance:
        for shape in different:
            times[shape] = _times(shape, encodings, n_rows)
            advance(1)
    return np.array([times[shape] for shape in shapes])


def _times(shape: Shape, encodings: Sequence[Encoding], n_rows: int) -> np.ndarray:
    weight = np.random.default_rng(0).normal(size=shape[::-1]).astype(np.float32)
    x = {"x": np.random.default_rng(1).normal(size=(n_rows, shape[0])).astype(np.float32)}
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(OnnxRuntime().open(from_ir(_product(weight, n_rows, encoding)), Target()))
            for encoding in (*encodings, None)
        ]
        n_runs = [_runs_per_round(session, x) for session in sessions]
        rounds = [
            [_mean_ms(session, x, n) for session, n in zip(sessions, n_runs, strict=True)] for _ in range(_ROUNDS)
        ]
    return np.asarray(np.median(rounds, axis=0))


def _product(weight: np.ndarray, n_rows: int, encoding: Encoding | None) -> onnx_ir.Model:
    """A graph of one product with `weight` `[N, K]`, coded where an encoding is given."""
    import onnx_ir

    float32 = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    x = onnx_ir.Value(name="x", type=float32, shape=onnx_ir.Shape((n_rows, weight.shape[1])))
    tensor = onnx_ir.tensor(np.ascontiguousarray(weight.T), name="weight")
    value = onnx_ir.Value(name="weight", type=float32, shape=tensor.shape, const_value=tensor)
    node = onnx_ir.node("MatMul", [x, value], name="product")
    node.outputs[0].name, node.outputs[0].type = "y", float32
    graph = onnx_ir.Graph([x], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 21}, name="product")
    model = onnx_ir.Model(graph, ir_version=10)
    infer_shapes(model)
    if encoding is not None:
        (target,) = coded_operators(model, encoding.block)
        coded = coded_arrays(quantize_blocks(weight, encoding), encoding, weight.shape[1])
        target.write(WeightWriter(model, "MatMulNBits"), CodedWeight.of(coded))
    return model


def _runs_per_round(session: Session, inputs: dict[str, np.ndarray]) -> int:
    _mean_ms(session, inputs, 3)
    return max(1, int(_ROUND_S / (_mean_ms(session, inputs, 3) / 1e3)))


def _mean_ms(session: Session, inputs: dict[str, np.ndarray], n_runs: int) -> float:
    started = time.perf_counter()
    for _ in range(n_runs):
        session.run(inputs)
    return (time.perf_counter() - started) / n_runs * 1e3
