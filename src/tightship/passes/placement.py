"""Where a graph is quantized: one rule per operator type, each a function with a drawing, in two tables.

    =>  a tensor in 8 bits: QuantizeLinear, DequantizeLinear, which engines merge into the operators beside them
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

__all__ = ["COMPUTING", "FOLLOWING", "Placement", "Role", "Slot", "place", "quantizable"]

Role = Literal["activation", "factor", "weight", "bias", "table"]


@dataclass(frozen=True)
class Slot:
    """One input of an operator that is read in 8 bits, and as what.

    `activation`: per tensor, asymmetric, with a range from calibration. `factor`: the second operand of a product of
    two activations, symmetric int8, since OpenVINO's integer kernels want their second operand so. `weight`: a
    constant, symmetric int8 with one scale per slice along `axis`. `bias`: a constant with one element per output
    channel, int32 at the scale of the accumulator. `table`: a constant that rows are looked up in, symmetric int8 with
    one scale per column; what was looked up is dequantized.
    """

    index: int
    role: Role
    axis: int | None = None


@dataclass
class Placement:
    """What is to be quantized, all in graph order.

    `slots` are the inputs that an operator reads in 8 bits. `resident` values are computed in 8 bits, so that whoever
    reads them reads that; each leads to the output of its operator, another value where a Relu or Clip lies between,
    which saturation replaces. `range_of` leads from a value to the one that has the same range by construction,
    `input_of` from an operator to the value whose scale its products have.
    """

    slots: dict[onnx_ir.Node, tuple[Slot, ...]] = field(default_factory=dict)
    resident: dict[onnx_ir.Value, onnx_ir.Value] = field(default_factory=dict)
    range_of: dict[onnx_ir.Value, onnx_ir.Value] = field(default_factory=dict)
    input_of: dict[onnx_ir.Node, onnx_ir.Value] = field(default_factory=dict)

    def activations(self) -> dict[onnx_ir.Value, None]:
        """Return the values that are quantized asymmetrically."""
        return dict.fromkeys((*self._read_as("activation"), *self.resident))

    def factors(self) -> dict[onnx_ir.Value, None]:
        """Return the values that are quantized symmetrically."""
        return dict.fromkeys(self._read_as("factor"))

    def observed(self) -> dict[onnx_ir.Value, None]:
        """Return the values whose ranges calibration has to find, whichever operators are excluded later."""
        values = (*self.activations(), *self.factors())
        return dict.fromkeys((*values, *map(self.source, values)))

    def source(self, value: onnx_ir.Value) -> onnx_ir.Value:
        """Return the value whose range `value` takes: itself, unless its operator only moved elements."""
        while value in self.range_of:
            value = self.range_of[value]
        return value

    def _read_as(self, role: Role) -> Iterator[onnx_ir.Value]:
        for node, slots in self.slots.items():
            yield from (node.inputs[slot.index] for slot in slots if slot.role == role)


def convolution(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """x => Conv(weight per output channel, bias int32) [-> Relu or Clip] =>"""
    return _weighted(node, weight_axis=0)


def gemm(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """x => Gemm(weight per column of the product, bias int32) ->"""
    plain = node.attributes.get_float("alpha", 1.0) == 1.0 and node.attributes.get_float("beta", 1.0) == 1.0
    return _weighted(node, weight_axis=0 if node.attributes.get_int("transB", 0) else 1) if plain else ()


def matrix_product(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """x => MatMul(weight per column) ->        x => MatMul <= y ->

    A stack of matrices gets one scale for all: ONNX Runtime multiplies it by a scale per column in floats only.
    """
    left, right = node.inputs
    if _is_float_matrix(right):
        return (Slot(0, "activation"), Slot(1, "weight", axis=1 if len(known_constant(right).shape) == 2 else None))
    return (Slot(0, "activation"), Slot(1, "factor")) if _is_computed_matrix(left, right) else ()


def look_up(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """int8 table -> Gather =>   (an embedding)"""
    table = node.inputs[0]
    if not _is_float_matrix(table) or len(table.uses()) > 1 or node.attributes.get_int("axis", 0) != 0:
        return ()
    tensor = known_constant(table)
    worthwhile = len(tensor.shape) == 2 and tensor.nbytes >= _LEAST_TABLE_BYTES
    return (Slot(0, "table", axis=1),) if worthwhile else ()


def keep_range(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """=> MaxPool, Reshape, Transpose, ... =>   with one range before and behind: elements are moved, not computed"""
    gives_indices = len(node.outputs) > 1
    return () if gives_indices else (Slot(0, "activation"),)


def keep_range_if_nearest(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """=> Resize =>   where it repeats or drops elements; interpolated ones stay float"""
    return (Slot(0, "activation"),) if node.attributes.get_string("mode", "nearest") == "nearest" else ()


def average(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """=> GlobalAveragePool, AveragePool =>   with a range of its own behind"""
    return (Slot(0, "activation"),)


def join(node: onnx_ir.Node) -> tuple[Slot, ...]:
    """=> Add, Concat <=   whose result goes on in 8 bits: =>   (the sum that ends a residual block)"""
    return tuple(Slot(index, "activation") for index in range(len(node.inputs)))


Rule = Callable[["onnx_ir.Node"], tuple[Slot, ...]]
"""Says which inputs are read in 8 bits; empty where it declines."""

COMPUTING: Mapping[str, Rule] = {"Conv": convolution, "Gather": look_up, "Gemm": gemm, "MatMul": matrix_product}
"""Operators that are worth quantizing for their own sake."""

FOLLOWING: Mapping[str, Rule] = {
    **dict.fromkeys(("DepthToSpace", "Flatten", "Gather", "MaxPool", "Reshape", "Slice"), keep_range),
    **dict.fromkeys(("Squeeze", "Transpose", "Unsqueeze"), keep_range),
    "Resize": keep_range_if_nearest,
    **dict.fromkeys(("AveragePool", "GlobalAveragePool"), average),
    **dict.fromkeys(("Add", "Concat"), join),
}
"""Operators that stay in 8 bits where all they read is quantized anyway and what reads them wants it so."""

_RANGE_KEEPING = frozenset({keep_range, keep_range_if_nearest})

_LEAST_TABLE_BYTES = 2**16

_COMPUTED_ROLES = frozenset({"activation", "factor"})
_STORED_ROLES = frozenset({"weight", "table"})


def quantizable(graph: onnx_ir.Model, attention: bool) -> tuple[Operator, ...]:
    """Return the operators of `COMPUTING` that would be quantized, in graph order."""
    return tuple(
        Operator(operator_name(node), node.op_type, _weight_bytes(node, slots))
        for node, slots in _computing(graph, attention, ()).items()
    )


def place(graph: onnx_ir.Model, attention: bool, exclude: Collection[str] = ()) -> Placement:
    """Apply the rules to the main graph. What is observed with `exclude` is part of what is observed without."""
    placement = Placement()
    for node, slots in _computing(graph, attention, exclude).items():
        _compute(node, slots, placement)
    quantized = set(placement.activations())
    for node, slots in reversed(_wanted(graph, quantized, exclude).items()):
        read = [node.inputs[slot.index] for slot in slots]
        if all(value in quantized for value in read) and any(value in placement.resident for value in read):
            _settle(node, slots, placement)
            quantized.add(fused_output(node))
    return placement


def fused_output(node: onnx_ir.Node) -> onnx_ir.Value:
    """Return the output of a node, or that of the Relu or Clip which alone reads it.

    Quantized behind that, with the range it leaves, it needs no Relu or Clip: saturation cuts off the same, to half a
    step.
    """
    value = node.outputs[0]
    readers = value.consumers()
    alone = len(readers) == 1 and readers[0].graph is node.graph and not value.is_graph_output()
    return readers[0].outputs[0] if alone and _saturates(readers[0]) else value


def _computing(graph: onnx_ir.Model, attention: bool, exclude: Collection[str]) -> dict[onnx_ir.Node, tuple[Slot, ...]]:
    fixed: set[onnx_ir.Value] = set()
    found = {}
    for node in graph.graph:
        if _is_fixed(node, fixed):
            fixed.update(node.outputs)
        elif node.op_type in COMPUTING and node.domain == "" and operator_name(node) not in exclude:
            slots = COMPUTING[node.op_type](node)
            read = [node.inputs[slot.index] for slot in slots if slot.role in _COMPUTED_ROLES]
            computed = all(value not in fixed and constant(value) is None for value in read)
            if slots and computed and (attention or slots[-1].role != "factor"):
                found[node] = slots
    return found


def _wanted(
    graph: onnx_ir.Model, quantized: Collection[onnx_ir.Value], exclude: Collection[str]
) -> dict[onnx_ir.Node, tuple[Slot, ...]]:
    """Return the following operators from which 8-bit values lead on to a quantized operator, last one first."""
    values = set(quantized)
    found = {}
    for node in reversed(graph.graph):
        if node.op_type not in FOLLOWING or node.domain != "" or operator_name(node) in exclude:
            continue
        slots = FOLLOWING[node.op_type](node)
        if slots and fused_output(node) in values:
            found[node] = slots
            values.update(node.inputs[slot.index] for slot in slots)
    return found


def _compute(node: onnx_ir.Node, slots: tuple[Slot, ...], placement: Placement) -> None:
    """Note what an operator reads in 8 bits; where that is a Reshape made for it alone, quantize before the Reshape.

    x -> Reshape => Gemm        becomes        x => Reshape => Gemm,        so that what computes x can quantize it
    """
    if slots[0].role == "table":
        placement.slots[node] = slots
        return
    x = node.inputs[0]
    view = x.producer()
    if view is not None and view.op_type == "Reshape" and len(x.uses()) == 1 and not x.is_graph_output():
        placement.slots[view] = (Slot(0, "activation"),)
        slots, x = slots[1:], view.inputs[0]
    placement.slots[node] = slots
    placement.input_of[node] = x
    if node.op_type == "Conv":
        placement.resident[fused_output(node)] = node.outputs[0]


def _settle(node: onnx_ir.Node, slots: tuple[Slot, ...], placement: Placement) -> None:
    output = fused_output(node)
    placement.slots[node] = slots
    placement.resident[output] = node.outputs[0]
    if FOLLOWING[node.op_type] in _RANGE_KEEPING and output is node.outputs[0]:
        placement.range_of[output] = node.inputs[0]


def _weighted(node: onnx_ir.Node, weight_axis: int) -> tuple[Slot, ...]:
    """x (0), weight (1) and, where there is one, bias (2); nothing where one of them cannot be quantized."""
    if not _is_float_matrix(node.inputs[1]):
        return ()
    slots = (Slot(0, "activation"), Slot(1, "weight", weight_axis))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return slots
    n_channels = known_constant(node.inputs[1]).shape[weight_axis]
    return (*slots, Slot(2, "bias")) if _is_bias(bias, n_channels) else ()


def _is_float_matrix(value: onnx_ir.Value | None) -> bool:
    tensor = constant(value)
    return tensor is not None and tensor.dtype.name == "FLOAT" and len(tensor.shape) > 1


def _is_bias(value: onnx_ir.Value, n_channels: int) -> bool:
    tensor = constant(value)
    if tensor is None or tensor.dtype.name != "FLOAT":
        return False
    return bool(tensor.size == 1 or tensor.size == n_channels == tensor.shape[-1])


def _is_computed_matrix(*values: onnx_ir.Value) -> bool:
    return all(
        value.dtype is not None and value.dtype.name == "FLOAT" and value.shape is not None and len(value.shape) > 1
        for value in values
    )


def _is_fixed(node: onnx_ir.Node, fixed: Collection[onnx_ir.Value]) -> bool:
    """Whether a node computes the same at every run, since it reads constants only."""
    if node.op_type == "Constant":
        return True
    read = [value for value in node.inputs if value is not None]
    return bool(read) and all(value in fixed or constant(value) is not None for value in read)


def _saturates(node: onnx_ir.Node) -> bool:
    """Whether a node is a Relu, or a Clip between constants that zero lies between."""
    if node.domain != "" or node.op_type not in {"Relu", "Clip"}:
        return False
    bounds = [bound for bound in node.inputs[1:3] if bound is not None]
    if any(constant(bound) is None for bound in bounds) or len(bounds) < len(node.inputs) - 1:
        return False
    low, high = (*(float(known_constant(bound).numpy()) for bound in bounds), 0.0, 0.0)[:2]
    return low <= 0 <= high


def _weight_bytes(node: onnx_ir.Node, slots: tuple[Slot, ...]) -> int:
    return sum(known_constant(node.inputs[slot.index]).nbytes for slot in slots if slot.role in _STORED_ROLES)
