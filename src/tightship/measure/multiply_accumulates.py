"""How many multiply-accumulates each operator does: one rule per operator type, over inferred shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tightship.measure.shapes import Shape

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["count", "counts"]


class _Unknown(Exception):
    """A shape or an attribute that a rule needs is not known."""


class _Operator:
    """What a rule may ask of a node; asking for what is not known ends the rule."""

    def __init__(self, node: onnx_ir.Node, shapes: Mapping[str, Shape]) -> None:
        self._node = node
        self._shapes = shapes

    def input(self, position: int) -> Shape:
        inputs = self._node.inputs
        return self._shape(inputs[position] if position < len(inputs) else None)

    @property
    def n_inputs(self) -> int:
        return sum(value is not None for value in self._node.inputs)

    @property
    def output(self) -> Shape:
        return self._shape(self._node.outputs[0])

    def integer(self, name: str, default: int = 0) -> int:
        attribute = self._node.attributes.get(name)
        return default if attribute is None else int(attribute.as_int())

    def text(self, name: str) -> str:
        return str(self._node.attributes[name].as_string())

    def _shape(self, value: onnx_ir.Value | None) -> Shape:
        if value is None or value.name not in self._shapes:
            raise _Unknown
        return self._shapes[value.name]


Rule = Callable[[_Operator], int]


def counts(op_type: str) -> bool:
    """Whether operators of this type multiply and accumulate, so that one that cannot be counted is worth telling."""
    return op_type in _RULES or any(part in op_type for part in ("Attention", "Conv", "Gemm", "MatMul", "MoE", "LSTM"))


def count(node: onnx_ir.Node, shapes: Mapping[str, Shape]) -> int | None:
    """Return the multiply-accumulates of one run of `node`, 0 for types that do none, None where shapes are unknown."""
    if not counts(node.op_type):
        return 0
    try:
        return _RULES[node.op_type](_Operator(node, shapes))
    except (KeyError, IndexError, ValueError, _Unknown):
        return None


def _convolution(weight: int) -> Rule:
    """Each output element sums over the input channels of its group and the kernel: W is [M, C/group, *kernel]."""
    return lambda op: math.prod(op.output) * math.prod(op.input(weight)[1:])


def _transposed_convolution(op: _Operator) -> int:
    """Each input element goes to every output channel of its group and kernel place: W is [C, M/group, *kernel]."""
    return math.prod(op.input(0)) * math.prod(op.input(1)[1:])


def _matrix_product(op: _Operator) -> int:
    shape = op.input(0)
    inner = shape[-2] if op.integer("transA") and len(shape) > 1 else shape[-1]
    return math.prod(op.output) * inner


def _low_bit_product(op: _Operator) -> int:
    return math.prod(op.input(0)[:-1]) * op.integer("K") * op.integer("N")


def _recurrence(op: _Operator) -> int:
    """Each step multiplies W and R: [directions, gates * hidden, input] and [directions, gates * hidden, hidden]."""
    steps_times_batch = math.prod(op.input(0)[:2])
    return steps_times_batch * (math.prod(op.input(1)) + math.prod(op.input(2)))


def _einsum(op: _Operator) -> int:
    terms = op.text("equation").replace(" ", "").partition("->")[0].split(",")
    if any("." in term for term in terms):
        raise _Unknown
    lengths = {
        letter: length
        for position, term in enumerate(terms)
        for letter, length in zip(term, op.input(position), strict=True)
    }
    return math.prod(lengths.values())


def _attention(op: _Operator) -> int:
    """Scores Q K^T and their product with V; axes are [batch, heads, length, size] or [batch, length, heads * size]."""
    query, key = op.input(0), op.input(1)
    return 2 * math.prod(query) * key[-2]


def _attention_with_projection(op: _Operator) -> int:
    """com.microsoft.Attention: projects [batch, length, input] by weights [input, 3 * hidden], then attends."""
    batch, length, n_inputs = op.input(0)
    n_projected = op.input(1)[1]
    return batch * length * n_inputs * n_projected + 2 * batch * length * length * n_projected // 3


_RULES: Mapping[str, Rule] = {
    "Attention": lambda op: _attention_with_projection(op) if len(op.input(1)) == 2 else _attention(op),
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed_convolution,
    "DeformConv": _convolution(1),
    "DynamicQuantizeLSTM": _recurrence,
    "DynamicQuantizeMatMul": _matrix_product,
    "Einsum": _einsum,
    "FusedConv": _convolution(1),
    "FusedGemm": _matrix_product,
    "FusedMatMul": _matrix_product,
    "GRU": _recurrence,
    "Gemm": _matrix_product,
    "LSTM": _recurrence,
    "MatMul": _matrix_product,
    "MatMulInteger": _matrix_product,
    "MatMulIntegerToFloat": _matrix_product,
    "MatMulNBits": _low_bit_product,
    "MultiHeadAttention": _attention,
    "QGemm": _matrix_product,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _matrix_product,
    "RNN": _recurrence,
}
