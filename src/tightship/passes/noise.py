"""What coding one weight alone costs at the outputs, for every weight and number of bits, in one session.

The weights are inputs of the graph that is run: each is fed as it is, but for the one that is being judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.graph import from_ir
from tightship.core.progress import Progress
from tightship.core.session import Arrays, Session
from tightship.core.target import Target
from tightship.engines.onnxruntime import OnnxRuntime
from tightship.passes.editing import deep_copy
from tightship.passes.fed_weights import feed_weights
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.encoding import Encoding

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Measure", "Noise", "measure_noise"]

Measure = Literal["sqnr", "kl"]

_N_BATCHES = 2
_BATCH = 8


@dataclass(frozen=True)
class Noise:
    """Of each operator (`names`) at each of `bits`: `noise` `[operators, widths]`, what it does to the outputs, and
    `cost`, the bits of the codes. `shapes` are (K, N)."""

    names: tuple[str, ...]
    bits: tuple[int, ...]
    noise: np.ndarray
    cost: np.ndarray
    shapes: tuple[tuple[int, int], ...]


def measure_noise(
    graph: onnx_ir.Model,
    names: Sequence[str],
    encodings: Sequence[Encoding],
    data: Dataset,
    progress: Progress,
    measure: Measure = "sqnr",
) -> Noise:
    """Round each of the named products alone to nearest, in each encoding, and run a few items of `data`.

    `measure` "sqnr" gives the power of the outputs' error over their own, "kl" the divergence of the first output,
    taken as logits over its last axis, from the exact one, in nats, on average over all positions.
    """
    model = from_ir(graph)
    batches = [feed.arrays for feed in islice(feeds(data, model.inputs, _BATCH), _N_BATCHES)]
    open_graph = deep_copy(graph)
    fed = feed_weights(open_graph, names)
    weights = {weight.name: weight.array for weight in fed.values()}
    judge = _noise if measure == "sqnr" else _divergence
    noise = np.empty((len(names), len(encodings)))
    cost = np.empty_like(noise)
    opened = OnnxRuntime().open(from_ir(open_graph), Target())
    with opened as session, progress.step("measuring what each weight costs", len(names)) as advance:
        exact = [session.run({**batch, **weights}) for batch in batches]
        for row, name in enumerate(names):
            for column, encoding in enumerate(encodings):
                rows = fed[name].rows
                coded = fed[name].arranged(quantize_blocks(rows, encoding).dequantize(rows.shape[1]))
                noise[row, column] = judge(session, batches, {**weights, fed[name].name: coded}, exact)
                cost[row, column] = coded.size * encoding.bits
            advance(1)
    shapes = tuple((fed[name].rows.shape[1], fed[name].rows.shape[0]) for name in names)
    return Noise(tuple(names), tuple(encoding.bits for encoding in encodings), noise, cost, shapes)


def _noise(session: Session, batches: Sequence[Arrays], weights: Arrays, exact: Sequence[Arrays]) -> float:
    signal = error = 0.0
    for batch, wanted in zip(batches, exact, strict=True):
        found = session.run({**batch, **weights})
        for name, array in wanted.items():
            if array.dtype.kind == "f":
                signal += float(np.square(array, dtype=np.float64).sum())
                error += float(np.square(array - found[name], dtype=np.float64).sum())
    return error / max(signal, 1e-30)


def _divergence(session: Session, batches: Sequence[Arrays], weights: Arrays, exact: Sequence[Arrays]) -> float:
    from scipy.special import log_softmax

    total, n_positions = 0.0, 0
    for batch, wanted in zip(batches, exact, strict=True):
        name = next(iter(wanted))
        found = session.run({**batch, **weights})[name]
        before, after = (log_softmax(array.astype(np.float64), axis=-1) for array in (wanted[name], found))
        total += float((np.exp(before) * (before - after)).sum())
        n_positions += before[..., 0].size
    return total / max(n_positions, 1)
