"""What coding one weight alone costs at the outputs, for every weight and number of bits, in one session.

The weights are inputs of the graph that is run: each is fed as it is, but for the one that is being judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.graph import from_ir
from tightship.core.progress import Progress
from tightship.core.session import Arrays, Session
from tightship.core.target import Target
from tightship.engines.onnxruntime import OnnxRuntime
from tightship.passes.editing import deep_copy
from tightship.passes.linear import Linear, linear_operators
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.encoding import Encoding

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Noise", "measure_noise"]

_N_BATCHES = 2
_BATCH = 8


@dataclass(frozen=True)
class Noise:
    """Of each operator (`names`) at each of `bits`: `noise` `[operators, widths]`, the power of the outputs' error over
    their own, and `cost`, the bits of the codes."""

    names: tuple[str, ...]
    bits: tuple[int, ...]
    noise: np.ndarray
    cost: np.ndarray


def measure_noise(
    graph: onnx_ir.Model,
    names: Sequence[str],
    encodings: Sequence[Encoding],
    data: Dataset,
    progress: Progress,
) -> Noise:
    """Round each of the named products alone to nearest, in each encoding, and run a few items of `data`."""
    model = from_ir(graph)
    batches = [feed.arrays for feed in islice(feeds(data, model.inputs, _BATCH), _N_BATCHES)]
    open_graph, weights = _with_weights_as_inputs(graph, names)
    noise = np.empty((len(names), len(encodings)))
    cost = np.empty_like(noise)
    opened = OnnxRuntime().open(from_ir(open_graph), Target())
    with opened as session, progress.step("measuring what each weight costs", len(names)) as advance:
        exact = [session.run({**batch, **weights.arrays}) for batch in batches]
        for row, name in enumerate(names):
            for column, encoding in enumerate(encodings):
                coded = weights.coded(name, encoding)
                fed = {**weights.arrays, weights.inputs[name]: coded}
                noise[row, column] = _noise(session, batches, fed, exact)
                cost[row, column] = coded.size * encoding.bits
            advance(1)
    return Noise(tuple(names), tuple(encoding.bits for encoding in encodings), noise, cost)


@dataclass(frozen=True)
class _Weights:
    """Arrays by the name of the input that they are fed to, and that input by the name of the operator."""

    arrays: dict[str, np.ndarray]
    inputs: Mapping[str, str]
    by_rows: Mapping[str, bool]

    def coded(self, name: str, encoding: Encoding) -> np.ndarray:
        """Return the weight of an operator as its codes stand for it."""
        array = self.arrays[self.inputs[name]]
        rows = array if self.by_rows[name] else array.T
        coded = quantize_blocks(rows, encoding).dequantize(rows.shape[1])
        return coded if self.by_rows[name] else np.ascontiguousarray(coded.T)


def _with_weights_as_inputs(graph: onnx_ir.Model, names: Sequence[str]) -> tuple[onnx_ir.Model, _Weights]:
    import onnx_ir

    opened = deep_copy(graph)
    arrays, inputs, by_rows = {}, {}, {}
    for linear in list(linear_operators(opened)):
        if linear.name not in names:
            continue
        rows = _by_rows(linear)
        array = np.ascontiguousarray(linear.read().T if rows else linear.read())
        value = onnx_ir.Value(
            name=f"{linear.name}/fed", type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT), shape=onnx_ir.Shape(array.shape)
        )
        opened.graph.inputs.append(value)
        linear.node.replace_input_with(1, value)
        arrays[value.name or ""], inputs[linear.name], by_rows[linear.name] = array, value.name or "", rows
    return opened, _Weights(arrays, inputs, by_rows)


def _by_rows(linear: Linear) -> bool:
    """Whether the operator reads its weight as `[N, K]`."""
    return linear.node.op_type == "Gemm" and bool(linear.node.attributes.get_int("transB", 0))


def _noise(session: Session, batches: Sequence[Arrays], weights: Arrays, exact: Sequence[Arrays]) -> float:
    signal = error = 0.0
    for batch, wanted in zip(batches, exact, strict=True):
        found = session.run({**batch, **weights})
        for name, array in wanted.items():
            if array.dtype.kind == "f":
                signal += float(np.square(array, dtype=np.float64).sum())
                error += float(np.square(array - found[name], dtype=np.float64).sum())
    return error / max(signal, 1e-30)
