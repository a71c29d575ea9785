"""Weights rounded one part of the graph after another, each to what the parts before it, rounded already, give it.

Two streams of activations go through the graph side by side, on disk: the float model's, and that of the model as far
as it is rounded. Memory holds one part of the graph; what is finished is kept, and a killed run goes on behind it.
"""

from __future__ import annotations

import hashlib
import math
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from tightship.core import atomic
from tightship.core.allocator import give_back
from tightship.core.graph import from_ir
from tightship.core.passes import Statistics
from tightship.core.progress import Progress
from tightship.core.session import Arrays, Session
from tightship.core.store import Store
from tightship.core.target import Target
from tightship.engines.onnxruntime import OnnxRuntime
from tightship.passes.coded_weights import CodedWeight, coded_arrays
from tightship.passes.editing import known_constant
from tightship.passes.linear import Linear
from tightship.passes.segments import Segment, inner_model, segments
from tightship.passes.streams import Stream
from tightship.rounding.asymmetric import drift_of, target_of
from tightship.rounding.encoding import Encoding
from tightship.rounding.low_rank import low_rank_correction
from tightship.rounding.second_moment import Moments, SecondMoment
from tightship.rounding.solve import Method, round_weight

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["BlockByBlock", "Feeds", "Order", "Part", "graph_digest", "weight_key"]

_WORTH_COLLECTING = 1 << 24
"""Weights of a part. Graphs are cycles, so what a session was made of stays until cycles are looked for."""


@dataclass(frozen=True)
class Order:
    """What is to be done to one weight: how it is written, how it is rounded, and the rank of its correction."""

    encoding: Encoding
    method: Method
    rank: int = 0


Feeds = Callable[[], Iterable[Arrays]]
"""Begins a new round of the calibration data."""


def weight_key(linear: Linear) -> str:
    """Return the name under which the codes of a weight are kept; the two ways of reading one differ."""
    return f"{linear.weight.name}{'.T' if linear.transposed else ''}/"


@dataclass(frozen=True)
class Part:
    """A segment whose weights are rounded, and both streams before it: what a gradient method goes on from."""

    graph: onnx_ir.Model
    segment: Segment
    orders: Mapping[str, Order]
    arrays: Mapping[str, np.ndarray]
    floats: Stream
    rounded: Stream


@dataclass(frozen=True)
class BlockByBlock:
    """Rounds the weights of a graph; `orders` says how, by operator name. `key` is all that the result depends on."""

    graph: onnx_ir.Model
    orders: Mapping[str, Order]
    key: tuple[object, ...]
    progress: Progress
    store: Store | None = None
    train_part: Callable[[Part], Statistics] | None = None
    train_whole: Callable[[Statistics, Feeds], Statistics] | None = None
    parts: tuple[Segment, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", segments(self.graph))

    def run(self, feeds: Feeds) -> Statistics:
        """Return the arrays of every weight, under its key; each is read when it is asked for.

        `feeds` begins a new round of the calibration data.
        """
        found: list[Statistics] = []
        wanted = [index for index, part in enumerate(self.parts) if self._linears(part)]
        with self._folder() as folder, self.progress.step("rounding block by block", len(wanted)) as advance:
            floats, rounded = (Stream.write(folder / name / "start", feeds()) for name in ("float", "rounded"))
            for index, part in enumerate(self.parts[: wanted[-1] + 1] if wanted else ()):
                if index in wanted:
                    found.append(self._kept(index, partial(self._rounded, part, floats, rounded)))
                    advance(1)
                if index != wanted[-1]:
                    floats = self._through(part, floats, {}, folder / "float" / str(index))
                    rounded = self._through(part, rounded, ChainMap(*found), folder / "rounded" / str(index))  # type: ignore[arg-type]
        arrays: Statistics = ChainMap(*found)  # type: ignore[arg-type]
        train_whole = self.train_whole
        return arrays if train_whole is None else self._kept("whole", lambda: train_whole(arrays, feeds))

    def _kept(self, step: object, compute: Callable[[], Statistics]) -> Statistics:
        return compute() if self.store is None else self.store.arrays("round", (*self.key, step), compute)

    def _rounded(self, part: Segment, floats: Stream, rounded: Stream) -> Statistics:
        arrays: dict[str, np.ndarray] = {}
        for read, group in part.groups():
            todo = [linear for linear in group if linear.name in self.orders and weight_key(linear) not in arrays]
            if not todo:
                continue
            linears = {weight_key(linear): linear for linear in todo}
            # Not kept under a name here: what it holds of the drift is let go of on the way.
            arrays |= self._group(linears, self._moments(part, read, todo, arrays, floats, rounded))
        if self.train_part is not None:
            arrays |= self.train_part(Part(self.graph, part, self.orders, arrays, floats, rounded))
        return arrays

    def _group(self, linears: Mapping[str, Linear], moments: Moments | None) -> dict[str, np.ndarray]:
        """Round weights that read the same value; the drift of that is let go of before the first factor is made."""
        weights = {key: np.ascontiguousarray(linear.read().T) for key, linear in linears.items()}
        methods = {key: self.orders[linear.name].method for key, linear in linears.items()}
        aiming = [key for key, method in methods.items() if method.asymmetric_calibration]
        drifts = {} if moments is None else {key: drift_of(weights[key], moments) for key in aiming}
        still = None if moments is None else replace(moments, cross=None)
        del moments
        made: dict[str, np.ndarray] = {}
        for key, linear in linears.items():
            aim = weights.pop(key)
            if still is not None:
                aim = target_of(aim, drifts.pop(key, None), still, methods[key].damping)
            found = self._weight(self.orders[linear.name], aim, still)
            made |= {f"{key}{name}": array for name, array in found.items()}
        return made

    def _weight(self, order: Order, weight: np.ndarray, moments: Moments | None) -> dict[str, np.ndarray]:
        codes = round_weight(weight, moments, order.encoding, order.method)
        low_rank = None
        if order.rank and moments is not None:
            low_rank = low_rank_correction(weight, codes, moments, min(order.rank, *weight.shape))
        return coded_arrays(codes, order.encoding, weight.shape[1], low_rank)

    def _moments(
        self,
        part: Segment,
        read: str,
        todo: list[Linear],
        arrays: Mapping[str, np.ndarray],
        floats: Stream,
        rounded: Stream,
    ) -> Moments | None:
        """Gather the moments of the value that products read, in one stream or in both; one session at a time."""
        orders = [self.orders[linear.name] for linear in todo]
        if not any(order.rank or order.method.error_feedback or order.method.refit for order in orders):
            return None
        paired = any(order.method.asymmetric_calibration for order in orders)
        with TemporaryDirectory(prefix="tightship-", dir=floats.folder.parent) as name:
            exact = self._values(part, read, {}, floats, Path(name) / "float") if paired else None
            coded = self._values(part, read, arrays, rounded, Path(name) / "rounded")
            shape = known_constant(todo[0].weight).shape
            moment = SecondMoment(shape[1] if todo[0].transposed else shape[0], paired=paired)
            for index in range(coded.n_batches):
                moment.add(coded.batch(index)[read], None if exact is None else exact.batch(index)[read])
        return moment.moments()

    def _values(
        self, part: Segment, read: str, arrays: Mapping[str, np.ndarray], stream: Stream, folder: Path
    ) -> Stream:
        """Return a stream that holds `read`: the one before the part, or what the part makes of it."""
        if read in part.reads:
            return stream
        with self._session(part, [read], arrays) as session:
            return stream.seen(session, [read], folder)

    def _through(self, part: Segment, stream: Stream, arrays: Mapping[str, np.ndarray], folder: Path) -> Stream:
        computed = [name for name in part.gives if name not in part.reads]
        with self._session(part, computed, arrays) as session:
            return stream.through(session, part.gives, folder)

    @contextmanager
    def _session(self, part: Segment, gives: list[str], arrays: Mapping[str, np.ndarray]) -> Iterator[Session | None]:
        """Open what computes `gives` of a part, its weights as `arrays` has them; None where nothing is computed."""
        if not gives:
            yield None
            return
        model = inner_model(self.graph, part.reads, gives, stored_weights(part, arrays))
        with OnnxRuntime().open(from_ir(model), Target()) as session:
            yield session
        del model, session
        if sum(math.prod(known_constant(linear.weight).shape) for linear in part.linears) >= _WORTH_COLLECTING:
            give_back()

    def _linears(self, part: Segment) -> list[Linear]:
        return [linear for linear in part.linears if linear.name in self.orders]

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        if self.store is None:
            with TemporaryDirectory(prefix="tightship-") as name:
                yield Path(name)
        else:
            with atomic.folder_beside(self.store.root / "streams") as folder:
                yield folder


def stored_weights(part: Segment, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights of a part that `arrays` holds codes of, as the graph stores them."""
    weights = {}
    for linear in part.linears:
        key = weight_key(linear)
        if f"{key}encoding" in arrays:
            rows = CodedWeight.of(arrays, key).dequantize()
            weights[linear.weight.name or ""] = rows if linear.transposed else np.ascontiguousarray(rows.T)
    return weights


def graph_digest(graph: onnx_ir.Model) -> str:
    """Return the SHA-256 of a graph: its operators, and its constants one at a time."""
    digest = hashlib.sha256(repr(graph.opset_imports).encode())
    for subgraph in graph.graphs():
        for node in subgraph:
            names = [[value and value.name for value in values] for values in (node.inputs, node.outputs)]
            digest.update(repr((node.domain, node.op_type, names)).encode())
            for name, attribute in sorted(node.attributes.items()):
                digest.update(f"{name}={_written(attribute)}".encode())
        for name, value in subgraph.initializers.items():
            digest.update(repr(name).encode())
            if value.const_value is not None:
                digest.update(value.const_value.tobytes())
    return digest.hexdigest()


def _written(attribute: onnx_ir.Attr) -> str:
    import onnx_ir

    if attribute.is_ref() or attribute.type in {onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS}:
        return str(attribute.type)  # the operators of a graph inside are told one by one
    if attribute.type == onnx_ir.AttributeType.TENSOR:
        return hashlib.sha256(attribute.as_tensor().tobytes()).hexdigest()
    return repr(attribute.value)
