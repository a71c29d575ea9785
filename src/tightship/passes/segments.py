"""A graph cut at its narrow places, so that it can be run one part at a time, each part from what the last one gave.

For a decoder these places are the residual sums: a segment is an attention or a feed-forward part, and all that lives
between two of them is the hidden state and what every block reads (masks, positions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tightship.passes.editing import constant
from tightship.passes.linear import Linear, linear_operators

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir

__all__ = ["Segment", "inner_model", "segments"]


@dataclass(frozen=True)
class Segment:
    """Operators that follow each other, the computed values they read from before and those that are read later.

    `linears` are the products with constant weights among them. `reads` and `gives` hold names of values.
    """

    reads: tuple[str, ...]
    gives: tuple[str, ...]
    linears: tuple[Linear, ...]

    def groups(self) -> Iterator[tuple[str, tuple[Linear, ...]]]:
        """Yield the name of each value that products read, with those that read it, in the order they run."""
        readers: dict[str, list[Linear]] = {}
        for linear in self.linears:
            readers.setdefault(linear.x.name or "", []).append(linear)
        for name, found in readers.items():
            yield name, tuple(found)


def segments(graph: onnx_ir.Model) -> tuple[Segment, ...]:
    """Cut a graph (names unique, types known) behind the products where it is narrowest.

    It is cut between two products where no more values are alive than between the neighbours of these two. Every
    operator is in one segment, and each segment reads only what the input and earlier segments give.
    """
    nodes = list(graph.graph)
    alive = _alive(graph.graph, nodes)
    linears = {linear.node: linear for linear in linear_operators(graph)}
    places = [index for index, node in enumerate(nodes) if node in linears]
    cuts = [0, *_cuts(places, alive), len(nodes)]
    found = []
    for start, end in pairwise(cuts):
        inside = tuple(linears[node] for node in nodes[start:end] if node in linears)
        found.append(Segment(alive[start], alive[end], inside))
    return tuple(found)


def inner_model(
    graph: onnx_ir.Model, reads: Sequence[str], gives: Sequence[str], weights: Mapping[str, np.ndarray]
) -> onnx_ir.Model:
    """Return the part of a graph that computes `gives` from `reads`, constants by name replaced by `weights`.

    Weights are shared with `graph`, not copied.
    """
    import onnx_ir

    part = onnx_ir.convenience.extract(graph.graph, list(reads), list(gives))
    for name, array in weights.items():
        if name in part.initializers:
            part.initializers[name].const_value = onnx_ir.tensor(array, name=name)
    functions = tuple(graph.functions.values())
    return onnx_ir.Model(part, ir_version=graph.ir_version, functions=functions)


def _alive(graph: onnx_ir.Graph, nodes: Sequence[onnx_ir.Node]) -> list[tuple[str, ...]]:
    """Return, for the place before each operator and behind the last, the computed values that are read after it."""
    fixed = _fixed(nodes)
    made = {value: 0 for value in graph.inputs if value.const_value is None}
    last: dict[onnx_ir.Value, int] = {}
    for index, node in enumerate(nodes, start=1):
        for value in _read(node):
            if value in made:
                last[value] = index
        if node not in fixed:
            made |= dict.fromkeys(node.outputs, index)
    last |= dict.fromkeys((value for value in graph.outputs if value in made), len(nodes) + 1)
    alive: list[list[str]] = [[] for _ in range(len(nodes) + 1)]
    for value, end in last.items():
        for place in range(made[value], min(end, len(alive))):
            alive[place].append(value.name or "")
    return [tuple(names) for names in alive]


def _cuts(places: Sequence[int], alive: Sequence[Sequence[str]]) -> list[int]:
    """Return where to cut: between neighbouring products at the narrowest place, if it is narrow for its surroundings.

    Of equally narrow places the first behind a product is taken.
    """
    narrowest = [
        min(range(first + 1, second + 1), key=lambda place: len(alive[place])) for first, second in pairwise(places)
    ]
    widths = [len(alive[place]) for place in narrowest]
    around = [len(alive[0]), *widths, len(alive[-1])]
    return [place for index, place in enumerate(narrowest) if widths[index] <= min(around[index], around[index + 2])]


def _fixed(nodes: Sequence[onnx_ir.Node]) -> set[onnx_ir.Node]:
    """Operators that compute the same at every run, since they read constants only."""
    fixed: set[onnx_ir.Node] = set()
    for node in nodes:
        read = list(_read(node))
        if all(value.producer() in fixed or constant(value) is not None for value in read) and (
            read or node.op_type == "Constant"
        ):
            fixed.add(node)
    return fixed


def _read(node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
    """Yield the values of the main graph that an operator reads, those that its subgraphs take from outside too."""
    import onnx_ir

    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from _read(inner)
