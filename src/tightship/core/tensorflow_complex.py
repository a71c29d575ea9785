"""Complex numbers in TensorFlow graphs as pairs of real ones, since neither ONNX nor tf2onnx has them.

Discrete Fourier transforms of real signals become products with their matrices, whose length must be known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tightship.errors import UnsupportedOperators

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["without_complex_numbers"]

_MAX_LENGTH = 8192
_OF_FFT = ("RFFT", "IRFFT", "ComplexAbs", "Angle", "Real", "Imag")
_SHAPING = frozenset(
    {"ExpandDims", "GatherV2", "Identity", "Pack", "Reshape", "Squeeze", "StopGradient", "StridedSlice", "Transpose"}
)
"""They move numbers and know none: done to both parts alike."""


def without_complex_numbers(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Return the graph in float32 alone; the same graph where it has no complex numbers.

    Raises `UnsupportedOperators` that names all that have no counterpart in real numbers here.
    """
    rewriting = _Rewriting(graph)
    return rewriting.run() if rewriting.complex_nodes else graph


Pair = tuple[str, str]


class _Rewriting:
    """A graph that is written anew, node by node; `pairs` are the parts of each complex tensor by its name."""

    def __init__(self, graph: tf.compat.v1.GraphDef) -> None:
        import tensorflow as tf

        self.source = graph
        self.nodes = {node.name: node for node in graph.node}
        self.made: list[tf.compat.v1.NodeDef] = []
        self.pairs: dict[str, Pair] = {}
        complex_types = {tf.complex64.as_datatype_enum, tf.complex128.as_datatype_enum}
        self.complex_nodes = {
            node.name
            for node in graph.node
            if any(value.type in complex_types for value in node.attr.values()) or node.op in _OF_FFT
        }

    def run(self) -> tf.compat.v1.GraphDef:
        import tensorflow as tf

        known = {"Shape", *_MAKING, *_ENDING}
        unknown = sorted({self.nodes[name].op for name in self.complex_nodes} - known)
        if unknown:
            raise UnsupportedOperators(f"operators on complex numbers without a counterpart: {', '.join(unknown)}")
        written: set[str] = set()
        for node in self._ordered():
            if node.name in written:
                continue
            written.add(node.name)
            if node.name not in self.complex_nodes:
                self.made.append(node)
            elif node.op == "Shape":
                self.made.append(self.of_real_part(node))
            elif node.op in _ENDING:
                result = _ENDING[node.op](self, node)
                self.add("Identity", node.name, [result])
            else:
                self.pairs[node.name] = _MAKING[node.op](self, node)
        result = tf.compat.v1.GraphDef(versions=self.source.versions, library=self.source.library)
        result.node.extend(self.made)
        return result

    def _ordered(self) -> list[tf.compat.v1.NodeDef]:
        """Nodes behind all that they read; none of those here stands in a loop."""
        order: list[tf.compat.v1.NodeDef] = []
        state: dict[str, int] = {}
        pending = [(node.name, False) for node in reversed(self.source.node)]
        while pending:
            name, finished = pending.pop()
            if finished:
                order.append(self.nodes[name])
            elif name in self.nodes and name not in state:
                state[name] = 1
                pending.append((name, True))
                pending += [(_node(other), False) for other in self.nodes[name].input]
        return order

    def pair(self, tensor: str) -> Pair:
        """The parts of a complex tensor."""
        return self.pairs[_node(tensor)]

    def of_real_part(self, node: tf.compat.v1.NodeDef) -> tf.compat.v1.NodeDef:
        """The same question, about the real part alone."""
        import tensorflow as tf

        copied = tf.compat.v1.NodeDef.FromString(node.SerializeToString())
        copied.input[0] = self.pair(node.input[0])[0]
        copied.attr["T"].type = tf.float32.as_datatype_enum
        return copied

    def add(self, op: str, name: str, inputs: Sequence[str], dtype: str = "T") -> str:
        """Add a float32 operator and return its output."""
        import tensorflow as tf

        node = tf.compat.v1.NodeDef(name=name, op=op, input=inputs)
        node.attr[dtype].type = tf.float32.as_datatype_enum
        self.made.append(node)
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        import tensorflow as tf

        node = tf.compat.v1.NodeDef(name=name, op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array.astype(np.float32)))
        self.made.append(node)
        return name

    def product(self, name: str, signal: str, matrix: np.ndarray) -> str:
        """`signal` `[..., K]` times `matrix` `[K, N]`."""
        return self.add("BatchMatMulV2", name, [signal, self.constant(f"{name}/matrix", matrix)])

    def length(self, node: tf.compat.v1.NodeDef) -> int:
        """The length of a transform, a constant. Raises `UnsupportedOperators` where it is none, or long."""
        import tensorflow as tf

        found = self.nodes.get(_node(node.input[1]))
        if found is None or found.op != "Const":
            raise UnsupportedOperators(f"{node.op} {node.name!r} of a length that only the run tells")
        length = int(tf.make_ndarray(found.attr["value"].tensor).reshape(-1)[0])
        if not 1 <= length <= _MAX_LENGTH:
            raise UnsupportedOperators(
                f"{node.op} {node.name!r} of length {length}; up to {_MAX_LENGTH} is written out"
            )
        return length


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _rfft(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> Pair:
    """X_k = sum_n x_n exp(-2 pi i k n / N), k = 0..N/2."""
    length = graph.length(node)
    angles = 2 * np.pi / length * np.outer(np.arange(length), np.arange(length // 2 + 1))
    matrices = (np.cos(angles), -np.sin(angles))
    real, imaginary = (
        graph.product(f"{node.name}/{part}", node.input[0], matrix)
        for part, matrix in zip(("real", "imaginary"), matrices, strict=True)
    )
    return real, imaginary


def _irfft(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> str:
    """x_n = (1 / N) sum_k w_k (re X_k cos(2 pi k n / N) - im X_k sin(2 pi k n / N)); w_k 1 for 0 and N/2, else 2."""
    length = graph.length(node)
    frequencies = np.arange(length // 2 + 1)
    weights = np.where((frequencies == 0) | (2 * frequencies == length), 1, 2)[:, None] / length
    angles = 2 * np.pi / length * np.outer(frequencies, np.arange(length))
    real, imaginary = graph.pair(node.input[0])
    parts = [
        graph.product(f"{node.name}/of-real", real, weights * np.cos(angles)),
        graph.product(f"{node.name}/of-imaginary", imaginary, -weights * np.sin(angles)),
    ]
    return graph.add("AddV2", f"{node.name}/sum", parts)


def _constant(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> Pair:
    import tensorflow as tf

    array = tf.make_ndarray(node.attr["value"].tensor)
    return graph.constant(f"{node.name}/real", array.real), graph.constant(f"{node.name}/imaginary", array.imag)


def _cast(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> Pair:
    if _node(node.input[0]) in graph.pairs:
        return graph.pair(node.input[0])
    zero = graph.constant(f"{node.name}/zero", np.zeros(()))
    return node.input[0], graph.add("Mul", f"{node.name}/imaginary", [node.input[0], zero])


def _complex(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> Pair:
    return node.input[0], node.input[1]


def _conjugate(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> Pair:
    real, imaginary = graph.pair(node.input[0])
    return real, graph.add("Neg", f"{node.name}/imaginary", [imaginary])


def _by_parts(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> Pair:
    """Sums and differences."""
    pairs = [graph.pair(tensor) for tensor in node.input[:2]]
    real, imaginary = (
        graph.add(node.op, f"{node.name}/{name}", [pair[part] for pair in pairs])
        for part, name in enumerate(("real", "imaginary"))
    )
    return real, imaginary


def _multiply(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> Pair:
    """(a + bi)(c + di) = (ac - bd) + (ad + bc)i"""
    (a, b), (c, d) = (graph.pair(tensor) for tensor in node.input[:2])
    ac, bd, ad, bc = (
        graph.add("Mul", f"{node.name}/{name}", list(factors))
        for name, factors in (("ac", (a, c)), ("bd", (b, d)), ("ad", (a, d)), ("bc", (b, c)))
    )
    return graph.add("Sub", f"{node.name}/real", [ac, bd]), graph.add("AddV2", f"{node.name}/imaginary", [ad, bc])


def _exp(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> Pair:
    """exp(a + bi) = exp(a) (cos b + i sin b)"""
    a, b = graph.pair(node.input[0])
    size = graph.add("Exp", f"{node.name}/size", [a])
    real, imaginary = (
        graph.add("Mul", f"{node.name}/{name}", [size, graph.add(op, f"{node.name}/{op.lower()}", [b])])
        for name, op in (("real", "Cos"), ("imaginary", "Sin"))
    )
    return real, imaginary


def _shaped(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> Pair:
    """The same step for both parts."""
    import tensorflow as tf

    made = []
    for part, name in enumerate(("real", "imaginary")):
        copied = tf.compat.v1.NodeDef.FromString(node.SerializeToString())
        copied.name = f"{node.name}/{name}"
        for index, tensor in enumerate(node.input):
            if _node(tensor) in graph.pairs:
                copied.input[index] = graph.pair(tensor)[part]
        for value in copied.attr.values():
            if value.type == tf.complex64.as_datatype_enum:
                value.type = tf.float32.as_datatype_enum
        graph.made.append(copied)
        made.append(copied.name)
    return made[0], made[1]


def _absolute(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> str:
    squares = [
        graph.add("Square", f"{node.name}/{name}", [part])
        for name, part in zip(("real", "imaginary"), graph.pair(node.input[0]), strict=True)
    ]
    return graph.add("Sqrt", f"{node.name}/root", [graph.add("AddV2", f"{node.name}/sum", squares)])


def _angle(graph: _Rewriting, node: tf.compat.v1.NodeDef) -> str:
    real, imaginary = graph.pair(node.input[0])
    return graph.add("Atan2", f"{node.name}/atan2", [imaginary, real])


def _part(index: int) -> Callable[[_Rewriting, tf.compat.v1.NodeDef], str]:
    return lambda graph, node: graph.pair(node.input[0])[index]


_MAKING: dict[str, Callable[[_Rewriting, tf.compat.v1.NodeDef], Pair]] = {
    "RFFT": _rfft,
    "Const": _constant,
    "Cast": _cast,
    "Complex": _complex,
    "Conj": _conjugate,
    "Add": _by_parts,
    "AddV2": _by_parts,
    "Sub": _by_parts,
    "Mul": _multiply,
    "Exp": _exp,
    **dict.fromkeys(_SHAPING, _shaped),
}
"""What gives complex numbers."""

_ENDING: dict[str, Callable[[_Rewriting, tf.compat.v1.NodeDef], str]] = {
    "IRFFT": _irfft,
    "ComplexAbs": _absolute,
    "Angle": _angle,
    "Real": _part(0),
    "Imag": _part(1),
}
"""What makes real ones of them."""
