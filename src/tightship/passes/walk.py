"""A graph gone through from the front on a few items, stopping at chosen values: what lives there is kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tightship.core.graph import from_ir
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.engines.onnxruntime import OnnxRuntime
from tightship.passes.editing import constant
from tightship.passes.segments import inner_model
from tightship.passes.streams import Stream

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Walk"]


class Walk:
    """Runs each operator of a graph once, in its order; constants of operators ahead may be changed meanwhile.

    Names must be unique and types known. Memory holds one batch; `folder`, what operators ahead will read.
    """

    def __init__(self, graph: onnx_ir.Model, batches: Iterable[Arrays], folder: Path) -> None:
        self._graph = graph
        self._nodes = list(graph.graph)
        self._index = {node: index for index, node in enumerate(self._nodes)}
        self._fixed = _fixed(self._nodes)
        self._at = 0
        self._folder = folder
        self._held = [value for value in graph.graph.inputs if self._last_use(value) >= 0]
        self._stream = Stream.write(folder / "start", batches)

    def to(self, value: onnx_ir.Value) -> Iterator[np.ndarray]:
        """Run what leads to `value`; yield its batches. Values must be asked for in the order they are computed in."""
        producer = value.producer()
        stop = self._at if producer is None else self._index[producer] + 1
        if stop > self._at:
            self._advance(stop)
        return (batch[value.name] for batch in self._stream)

    def _advance(self, stop: int) -> None:
        passed = [node for node in self._nodes[self._at : stop] if node not in self._fixed]
        made = [value for node in passed for value in node.outputs if self._last_use(value) >= stop]
        kept = [value for value in self._held if self._last_use(value) >= stop]
        self._learn_types()
        part = inner_model(self._graph, _names(self._held), _names(made), {})
        with OnnxRuntime().open(from_ir(part), Target(threads=1)) as session:
            self._stream = self._stream.through(session, _names([*kept, *made]), self._folder / str(stop))
        self._held, self._at = [*kept, *made], stop

    def _learn_types(self) -> None:
        """Give values the types that they turned out to have, where inference does not know an operator."""
        import onnx_ir

        if all(value.dtype is not None for value in self._held):
            return
        batch = next(iter(self._stream))
        for value in self._held:
            if value.dtype is None:
                value.dtype = onnx_ir.DataType.from_numpy(batch[value.name or ""].dtype)

    def _last_use(self, value: onnx_ir.Value) -> int:
        """Return the place of the last operator that reads a value, -1 if none does; within a subgraph: the end."""
        return max((self._index.get(node, len(self._nodes)) for node, _ in value.uses()), default=-1)


def _names(values: Iterable[onnx_ir.Value]) -> list[str]:
    return [value.name or "" for value in values]


def _fixed(nodes: Iterable[onnx_ir.Node]) -> set[onnx_ir.Node]:
    """Operators that read constants only: each part computes them itself, from what the constants are by then."""
    fixed: set[onnx_ir.Node] = set()
    for node in nodes:
        read = [value for value in node.inputs if value is not None]
        if all(constant(value) is not None or value.producer() in fixed for value in read):
            fixed.add(node)
    return fixed
