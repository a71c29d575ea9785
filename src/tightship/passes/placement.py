"""Where a graph is quantized: one rule per operator type, each a function with a drawing, in the tables `RULES`.

    =>  a tensor in 8 bits: float -> QuantizeLinear -> DequantizeLinear -> float, which engines merge into the operator
    ->  a float tensor

Two engines decide the rules. ONNX Runtime computes a convolution or a sum in integers only if its output is quantized
too, a matrix product always; OpenVINO moves quantization through the graph by itself and takes what suits both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tightship.core.graph import operator_name
from tightship.core.passes import Operator
from tightship.passes.editing import constant, known_constant

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["COMPUTING", "FOLLOWING", "Placement", "Slot", "place", "quantizable"]

Role = Literal["activation", "factor", "weight", "bias"]


@dataclass(frozen=True)
class Slot:
    """One input of an operator that is read in 8 bits, and as what.

    `activation`: per tensor, asymmetric, ranges from calibration. `factor`: the second operand of a product of two
    activations, symmetric int8, since OpenVINO has integer kernels for u8 * s8 only. `weight`: a constant, symmetric
    int8 with one scale per slice along `axis` (None: one for all). `bias`: a constant `[channels]`, int32 at the scale
    of the accumulator.
    """

    index: int
    role: Role
    axis: int | None = None


@dataclass
class Placement:
    """What is to be quantized.

    `slots` are the inputs read in 8 bits, by operator in graph order; the graph outputs and all readers of the values
    in `resident` read them in 8 bits too, since their operators compute them so. `range_of` leads from a value to
    the one whose range it has by construction.
    """

    slots: dict[onnx_ir.Node, tuple[Slot, ...]] = field(default_factory=dict)
    resident: dict[onnx_ir.Value, None] = field(default_factory=dict)
    range_of: dict[onnx_ir.Value, onnx_ir.Value] = field(default_factory=dict)

    def activations(self) -> dict[onnx_ir.Value, None]:
        """Return the values that get a QuantizeLinear for activations, in graph order."""
        return dict.fromkeys(self._read_as("activation")) | self.resident

    def factors(self) -> dict[onnx_ir.Value, None]:
        """Return the values that get a symmetric QuantizeLinear, in graph order."""
        return dict.fromkeys(self._read_as("factor"))

    def observed(self) -> dict[onnx_ir.Value, None]:
        """Return the values whose ranges calibration must find, in graph order."""
        return dict.fromkeys(self.source(value) for value in (*self.activations(), *self.factors()))

    def source(self, value: onnx_ir.Value) -> onnx_ir.Value:
        """Return the value whose range `value` takes: itself, unless an operator only moved its elements."""
        while value in self.range_of:
            value = self.range_of[value]
        return value

    def _read_as(self, role: Role) -> Iterator[onnx_ir.Value]:
        for node, slots in self.slots.items():
            yield from (node.inputs[slot.index] for slot in slots if slot.role == role)


def convolution(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """x => Conv(weight per output channel, bias int32) [-> Relu or Clip] =>"""
    if not _is_float_constant(node.inputs[1]):
        return ()
    bias = _bias(node, index=2)
    return () if bias is None else (Slot(0, "activation"), Slot(1, "weight", axis=0), *bias)


def gemm(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """x => Gemm(weight per column of the product, bias int32) ->"""
    if not _is_float_constant(node.inputs[1]) or constant(node.inputs[0]) is not None:
        return ()
    plain = node.attributes.get_float("alpha", 1.0) == 1.0 and node.attributes.get_float("beta", 1.0) == 1.0
    bias = _bias(node, index=2)
    if bias is None or not plain:
        return ()
    columns = 0 if node.attributes.get_int("transB", 0) else 1
    return (Slot(0, "activation"), Slot(1, "weight", axis=columns), *bias)


def matrix_product(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """x => MatMul(weight per column) ->        x => MatMul <= y ->"""
    left, right = node.inputs
    if _is_float_constant(right) and len(known_constant(right).shape) > 1 and constant(left) is None:
        return (Slot(0, "activation"), Slot(1, "weight", axis=-1))
    if _is_computed(left) and _is_computed(right):
        return (Slot(0, "activation"), Slot(1, "factor"))
    return ()


def keep_range(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """=> MaxPool, Reshape, Transpose, ... =>   with one range before and behind: elements are moved, not computed"""
    return (Slot(0, "activation"),)


def average(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """=> GlobalAveragePool, AveragePool =>   with a range of its own behind"""
    return (Slot(0, "activation"),)


def join(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """=> Add, Concat <=   whose result goes on in 8 bits: ... =>   (the sum of a residual block)"""
    return tuple(Slot(index, "activation") for index in range(len(node.inputs)))


Rule = Callable[["onnx_ir.Node"], tuple[Slot, ...]]

COMPUTING: Mapping[str, Rule] = {"Conv": convolution, "Gemm": gemm, "MatMul": matrix_product}
"""Operators that are worth quantizing for their own sake, and may be excluded by name. A rule may decline: `()`."""

FOLLOWING: Mapping[str, Rule] = {
    **dict.fromkeys(("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"), keep_range),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool"), average),
    **dict.fromkeys(("Add", "Concat"), join),
}
"""Operators that stay in 8 bits where what they read is in 8 bits already and what reads them wants it."""

_FUSED_ACTIVATIONS = frozenset({"Relu", "Clip"})
"""Behind these, not before them, the output of an operator is quantized: clipping is what saturation does for free."""

_SETTLED_OUTPUT = frozenset({"Conv"}) | FOLLOWING.keys()
"""Operators whose output ONNX Runtime wants quantized."""


def quantizable(graph: onnx_ir.Model, attention: bool) -> tuple[Operator, ...]:
    """Return the operators of `COMPUTING` that would be quantized, in graph order."""
    return tuple(
        Operator(operator_name(node), node.op_type, _weight_bytes(node, slots))
        for node, slots in _computing(graph, attention, ()).items()
    )


def place(graph: onnx_ir.Model, attention: bool, exclude: Collection[str] = ()) -> Placement:
    """Apply the rules to the main graph. What is observed with `exclude` is a part of what is observed without."""
    placement = Placement(slots=_computing(graph, attention, exclude))
    for node in placement.slots:
        if node.op_type in _SETTLED_OUTPUT:
            placement.resident[fused_output(node)] = None
    wanted = _wanted(graph, placement, exclude)
    for node in graph.graph:
        if node in wanted and _follows(node, placement):
            _settle(node, placement)
    return placement


def fused_output(node: onnx_ir.Node) -> onnx_ir.Value:
    """Return the output of a node, or that of the Relu or Clip which alone reads it."""
    value = node.outputs[0]
    readers = list(value.consumers())
    if len(readers) == 1 and readers[0].op_type in _FUSED_ACTIVATIONS and not value.is_graph_output():
        bounds = readers[0].inputs[1:]
        if all(bound is None or constant(bound) is not None for bound in bounds):
            return readers[0].outputs[0]
    return value


def _computing(
    graph: onnx_ir.Model, attention: bool, exclude: Collection[str]
) -> dict[onnx_ir.Node, tuple[Slot, ...]]:
    found = {}
    for node in graph.graph:
        slots = COMPUTING[node.op_type](node) if node.domain == "" and node.op_type in COMPUTING else ()
        two_activations = any(slot.role == "factor" for slot in slots)
        if slots and (attention or not two_activations) and operator_name(node) not in exclude:
            found[node] = slots
    return found


def _wanted(graph: onnx_ir.Model, placement: Placement, exclude: Collection[str]) -> set[onnx_ir.Node]:
    """Return the following operators from which 8-bit values lead to a quantized operator; found from the end."""
    values = set(placement.activations())
    nodes = set()
    for node in reversed(graph.graph):
        if node.domain == "" and node.op_type in FOLLOWING and fused_output(node) in values:
            if operator_name(node) in exclude:
                continue
            nodes.add(node)
            values.update(node.inputs[slot.index] for slot in FOLLOWING[node.op_type](node))
    return nodes


def _follows(node: onnx_ir.Node, placement: Placement) -> bool:
    """Whether all that the node reads is quantized already, and something of it computed in 8 bits."""
    read = [node.inputs[slot.index] for slot in FOLLOWING[node.op_type](node)]
    quantized = placement.activations()
    return all(value in quantized for value in read) and any(value in placement.resident for value in read)


def _settle(node: onnx_ir.Node, placement: Placement) -> None:
    rule = FOLLOWING[node.op_type]
    placement.slots[node] = rule(node)
    output = fused_output(node)
    placement.resident[output] = None
    if rule is keep_range:
        placement.range_of[output] = node.inputs[0]


def _bias(node: onnx_ir.Node, index: int) -> tuple[Slot, ...] | None:
    """Return the slot of a constant bias, nothing where there is no bias, None where it cannot be quantized."""
    if len(node.inputs) <= index or node.inputs[index] is None:
        return ()
    return (Slot(index, "bias"),) if _is_float_constant(node.inputs[index]) else None


def _weight_bytes(node: onnx_ir.Node, slots: tuple[Slot, ...]) -> int:
    return sum(known_constant(node.inputs[slot.index]).nbytes for slot in slots if slot.role == "weight")


def _is_float_constant(value: onnx_ir.Value | None) -> bool:
    import onnx_ir

    tensor = constant(value)
    return tensor is not None and tensor.dtype == onnx_ir.DataType.FLOAT


def _is_computed(value: onnx_ir.Value | None) -> bool:
    """Whether a value depends on the model's inputs (a constant may be hidden behind a Transpose or Reshape)."""
    if value is None or constant(value) is not None:
        return False
    node = value.producer()
    return node is None or not node.inputs or any(_is_computed(read) for read in node.inputs)
