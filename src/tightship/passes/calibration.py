"""Ranges of tensors over the calibration data, in one streaming pass: what is kept are statistics, never activations.

The graph is extended by what is to be watched, cut behind it, and run by ONNX Runtime with all its optimizations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from tightship.core import processor
from tightship.core.dataset import Batch, Dataset
from tightship.core.feeds import Feed, feeds
from tightship.core.graph import from_ir, initializer_bytes
from tightship.core.progress import SILENT, Progress
from tightship.core.session import Arrays, Session
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.engines.onnxruntime import OnnxRuntime
from tightship.errors import DatasetError, DatasetMismatch, InvalidModel
from tightship.passes.channel_scales import ChannelStatistics
from tightship.passes.histogram import Histogram, Method

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["observe_channels", "observe_ranges"]

_NEVER_NEGATIVE = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"})

_FINITE_FROM_FINITE = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "Conv", "Erf", "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool"}
    | {"HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Relu", "Reshape", "Sigmoid"}
    | {"Slice", "Split", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"}
)
"""Operators that never turn finite numbers into NaN; at worst they overflow, which the largest value shows."""

_SLOW_FUSIONS = ("SkipLayerNormFusion",)
"""Its kernel took seven times as long as those it replaces (ONNX Runtime 1.31, AVX2): 4 % of all time on BERT-base."""

_MOST_ITEM_ELEMENTS = 2**18
_MOST_WEIGHT_BYTES = 2**22
_MOST_ITEMS = 16
"""Small networks run in batches, since starting a run costs more than running; large ones gain nothing by it."""


def observe_ranges(
    graph: onnx_ir.Model,
    names: Sequence[str],
    data: Dataset | None,
    method: Method = "minmax",
    percentile: float = 99.99,
    symmetric: bool = False,
    progress: Progress = SILENT,
) -> dict[str, list[float]]:
    """Return `[low, high]`, `low <= 0 <= high`, of each named float tensor of the main graph over all items of `data`.

    `Histogram.range` says what the methods are; all hold zero, which quantization must represent exactly. Memory does
    not depend on the number of items. Raises `DatasetError` without data, `InvalidModel` naming the tensor
    that holds NaN or infinity.
    """
    watch = _Extremes() if method == "minmax" else _Histograms(method, percentile, symmetric)
    _observe(graph, names, data, watch, progress)
    return watch.ranges()


def observe_channels(
    graph: onnx_ir.Model, axes: Mapping[str, int], data: Dataset | None, progress: Progress = SILENT
) -> dict[str, ChannelStatistics]:
    """Return what the channels of each named tensor, along its axis, reach over all items; raises as `observe_ranges`.

    Memory does not depend on the number of items.
    """
    watch = _Channels(axes)
    _observe(graph, list(axes), data, watch, progress)
    return watch.statistics()


def _observe(
    graph: onnx_ir.Model, names: Sequence[str], data: Dataset | None, watch: _Watch, progress: Progress
) -> None:
    if data is None:
        raise DatasetError("calibration needs data and got none: give representative inputs, 100 items or more")
    watched = graph.clone()
    watch.extend(watched, names)
    _cut(watched, watch.outputs)
    inputs = from_ir(watched).inputs
    fed = feeds(_checked(data, inputs), inputs, _items_at_once(watched, data))
    n_items = 0
    # A run on one thread costs least processor time. Half of the cores make runs: more would wait for memory.
    opened = OnnxRuntime().open(from_ir(watched), Target(threads=1), without=_SLOW_FUSIONS)
    with opened as session, progress.step("calibrate") as advance:
        for feed, outputs in _in_parallel(fed, session, processor.n_cores() // 2):
            watch.update(outputs)
            n_items += feed.n_items
            advance(feed.n_items)
    if not n_items:
        raise DatasetError(f"{data.name}: calibration needs data and found no item; give 100 items or more")


def _in_parallel(fed: Iterable[Feed], session: Session, n_runs: int) -> Iterator[tuple[Feed, Arrays]]:
    """Yield each feed with its outputs, in order; at most `n_runs` feeds are in work at any time."""
    if n_runs <= 1:
        yield from ((feed, session.run(feed.arrays)) for feed in fed)
        return
    with ThreadPoolExecutor(n_runs) as pool:
        waiting: deque[tuple[Feed, Future[Arrays]]] = deque()
        for feed in fed:
            waiting.append((feed, pool.submit(session.run, feed.arrays)))
            if len(waiting) >= n_runs:
                done, outputs = waiting.popleft()
                yield done, outputs.result()
        for done, outputs in waiting:
            yield done, outputs.result()


class _Watch(ABC):
    """What is added to the graph and kept of its outputs. `outputs` lists what the session is to give."""

    def __init__(self) -> None:
        self.outputs: list[onnx_ir.Value] = []

    @abstractmethod
    def extend(self, graph: onnx_ir.Model, names: Sequence[str]) -> None:
        """Add operators that compute what is to be known of the named values."""

    @abstractmethod
    def update(self, outputs: Arrays) -> None:
        """Take the outputs of one run."""


class _Extremes(_Watch):
    """x -> ReduceMax; ReduceMin where x may be negative; ReduceSum where x may hold NaN, which the others overlook."""

    def __init__(self) -> None:
        super().__init__()
        self._ranges: dict[str, list[float]] = {}
        self._names: dict[str, tuple[str, str]] = {}

    def extend(self, graph: onnx_ir.Model, names: Sequence[str]) -> None:
        watched = set(names)
        for value in _values(graph, names):
            self._ranges[value.name] = [0.0, 0.0]
            reductions = ["ReduceMax"]
            if _op_type(value) not in _NEVER_NEGATIVE:
                reductions.append("ReduceMin")
            if not _finite_from_finite(value, watched):
                reductions.append("ReduceSum")
            for reduction in reductions:
                output = _computed(value, reduction, {"keepdims": 0})
                self._names[output.name] = (value.name, reduction)
                self.outputs.append(output)
        _append(graph, self.outputs)

    def update(self, outputs: Arrays) -> None:
        for output, array in outputs.items():
            name, reduction = self._names[output]
            found = float(array)
            if math.isnan(found) or (math.isinf(found) and reduction != "ReduceSum"):
                raise _not_finite(name)
            known = self._ranges[name]
            if reduction == "ReduceMin":
                known[0] = min(known[0], found)
            elif reduction == "ReduceMax":
                known[1] = max(known[1], found)

    def ranges(self) -> dict[str, list[float]]:
        return self._ranges


class _Values(_Watch):
    """x -> x: the values themselves leave the session, one batch at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, str] = {}

    def extend(self, graph: onnx_ir.Model, names: Sequence[str]) -> None:
        for value in _values(graph, names):
            output = _computed(value, "Identity", {})
            self._names[output.name] = value.name
            self.outputs.append(output)
        _append(graph, self.outputs)


class _Channels(_Values):
    def __init__(self, axes: Mapping[str, int]) -> None:
        super().__init__()
        self._axes = axes
        self._found: dict[str, ChannelStatistics] = {}
        self._counts: Counter[str] = Counter()

    def update(self, outputs: Arrays) -> None:
        for output, array in outputs.items():
            name = self._names[output]
            rows = np.moveaxis(array, self._axes[name], -1).reshape(-1, array.shape[self._axes[name]])
            low, high = np.minimum(rows.min(axis=0), 0), np.maximum(rows.max(axis=0), 0)
            if not np.isfinite(low + high).all():
                raise _not_finite(name)
            # A running mean, of which the new rows are this share.
            self._counts[name] += len(rows)
            new = len(rows) / self._counts[name]
            power = np.einsum("rc,rc->c", rows, rows, dtype=np.float64) / len(rows)
            known = self._found.get(name, ChannelStatistics(low, high, power))
            self._found[name] = ChannelStatistics(
                np.minimum(known.low, low),
                np.maximum(known.high, high),
                (1 - new) * known.mean_square + new * power,
            )

    def statistics(self) -> dict[str, ChannelStatistics]:
        return self._found


class _Histograms(_Values):
    def __init__(self, method: Method, percentile: float, symmetric: bool) -> None:
        super().__init__()
        self._rule = method, percentile, symmetric
        self._histograms: defaultdict[str, Histogram] = defaultdict(Histogram)

    def update(self, outputs: Arrays) -> None:
        for output, array in outputs.items():
            name = self._names[output]
            if not self._histograms[name].add(array):
                raise _not_finite(name)

    def ranges(self) -> dict[str, list[float]]:
        return {name: list(self._histograms[name].range(*self._rule)) for name in self._names.values()}


def _values(graph: onnx_ir.Model, names: Sequence[str]) -> list[onnx_ir.Value]:
    known = {value.name: value for value in graph.graph.inputs}
    known |= {value.name: value for node in graph.graph for value in node.outputs}
    return [known[name] for name in names]


def _op_type(value: onnx_ir.Value) -> str:
    producer = value.producer()
    return producer.op_type if producer is not None and producer.domain == "" else ""


def _finite_from_finite(value: onnx_ir.Value, watched: Collection[str]) -> bool:
    """Whether a value that holds NaN must come from a watched one (or an input) that was not finite already."""
    pending = [value]
    seen = set()
    while pending:
        node = pending.pop().producer()
        if node is None or node in seen:
            continue
        if node.op_type not in _FINITE_FROM_FINITE or node.domain != "":
            return False
        seen.add(node)
        pending += [read for read in node.inputs if read is not None and read.name not in watched]
    return True


def _computed(value: onnx_ir.Value, op_type: str, attributes: dict[str, int]) -> onnx_ir.Value:
    import onnx_ir

    output = onnx_ir.node(op_type, [value], attributes, name=f"{value.name}/{op_type}").outputs[0]
    output.name, output.dtype = f"{value.name}/{op_type}", onnx_ir.DataType.FLOAT
    return output


def _append(graph: onnx_ir.Model, outputs: Sequence[onnx_ir.Value]) -> None:
    """Add the producers of `outputs` at the end, deepest first: ONNX Runtime runs the leaves of a graph from the last.

    So each runs as soon as it can, and what it reads is not kept in memory for long.
    """
    graph.graph.extend([output.producer() for output in reversed(outputs)])


def _cut(graph: onnx_ir.Model, outputs: Sequence[onnx_ir.Value]) -> None:
    """Make these the only outputs and drop all that does not lead to them."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph.graph.outputs[:] = outputs
    RemoveUnusedNodesPass()(graph)


def _items_at_once(graph: onnx_ir.Model, data: Dataset) -> int:
    first = next(data.open(), None)
    item_elements = 1 if first is None else max(array[:1].size for array in first.inputs.values())
    fitting = min(_MOST_ITEM_ELEMENTS // item_elements, _MOST_WEIGHT_BYTES // max(1, initializer_bytes(graph)))
    return min(max(1, fitting), _MOST_ITEMS)


def _checked(data: Dataset, inputs: Sequence[TensorSpec]) -> Dataset:
    """Return the data with every batch checked: names, shapes of items, and finite numbers."""

    def check(batch: Batch) -> Batch:
        for spec in inputs:
            if spec.name not in batch.inputs:
                raise DatasetMismatch(f"{data.name}: expected an array for each input, found none for {spec}")
            array = batch.inputs[spec.name]
            if spec.shape and not spec.accepts((spec.batch or len(array), *array.shape[1:])):
                raise DatasetMismatch(f"{data.name}: expected items for {spec}, found arrays {list(array.shape)}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DatasetError(f"{data.name}: input {spec.name!r} holds NaN or infinite values; clean the data")
        return batch

    return data.mapped(check)


def _not_finite(name: str) -> InvalidModel:
    return InvalidModel(
        f"tensor {name!r} becomes NaN or infinite on the calibration data, expected finite numbers; "
        "check that the inputs are scaled as in training, and exclude or repair the operator that computes it"
    )
