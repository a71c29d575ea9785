"""Writes QuantizeLinear and DequantizeLinear into a graph, where a placement says and with the ranges observed."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tightship.core.graph import operator_name
from tightship.core.passes import Statistics
from tightship.errors import UsageError
from tightship.passes.editing import add_constant, all_values, drop_unused, known_constant
from tightship.passes.placement import Placement, Role, Slot
from tightship.passes.quantize import (
    Affine,
    IntegerType,
    QuantizedTensor,
    affine_of_range,
    bias_floor,
    quantize_bias,
    quantize_weight,
    symmetric_of_range,
)

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Grid", "bias_key", "codes_key", "write_qdq"]

_BIAS = 2
"""Index of the bias among the inputs of Conv and Gemm."""

_LEAST_FACTOR_BITS = 7
"""Of the second operand of a product of two activations; fewer bits are for weights."""


@dataclass(frozen=True)
class Grid:
    """Which integers are used: the type of activations, the bits of weights, scales per channel or not, and whether
    activations that may be negative have their zero in the middle of the integers."""

    activation: IntegerType
    weight_bits: int
    per_channel: bool
    symmetric: bool = False
    packed: bool = False
    """Whether weights of 4 bits are stored in 4 bits."""


def bias_key(node: onnx_ir.Node) -> str:
    """Return the name under which statistics hold the mean error of an operator's channels, which its bias takes up."""
    return f"{operator_name(node)}/mean error"


def codes_key(value: onnx_ir.Value) -> str:
    """Return the name under which statistics hold the codes of a weight, where they are not the nearest ones."""
    return f"{value.name}/codes"


def write_qdq(graph: onnx_ir.Model, placement: Placement, statistics: Statistics, grid: Grid) -> None:
    """Quantize, in place, all that the placement names.

    Raises `UsageError` where the statistics are not those of this graph, `InvalidModel` where a weight is not finite.
    """
    _Writer(graph, placement, statistics, grid).write()


@dataclass(frozen=True)
class _Read:
    """One input of one operator."""

    node: onnx_ir.Node
    slot: Slot


class _Writer:
    def __init__(self, graph: onnx_ir.Model, placement: Placement, statistics: Statistics, grid: Grid) -> None:
        self._graph = graph
        self._placement = placement
        self._statistics = statistics
        self._grid = grid
        self._taken = {value.name for value in all_values(graph)}
        self._taken_by_nodes = {node.name for subgraph in graph.graphs() for node in subgraph}
        self._reads: dict[tuple[onnx_ir.Value, Role], list[_Read]] = defaultdict(list)
        for node, slots in placement.slots.items():
            for slot in slots:
                self._reads[node.inputs[slot.index], slot.role].append(_Read(node, slot))
        self._affine: dict[onnx_ir.Value, Affine] = {}
        self._read_back: dict[onnx_ir.Value, onnx_ir.Value] = {}

    def write(self) -> None:
        for value in self._placement.activations():
            self._activation(value)
        for value in self._placement.factors():
            self._factor(value)
        for (value, role), reads in self._reads.items():
            if role == "weight":
                for axis in dict.fromkeys(read.slot.axis for read in reads):
                    self._weight(value, axis, [read for read in reads if read.slot.axis == axis])
            elif role == "table":
                self._table(value, reads[0])

    def _activation(self, value: onnx_ir.Value) -> None:
        """Quantize a value for those who read it in 8 bits or, where it is computed in 8 bits, for everyone.

        value -> readers                       becomes    value -> QuantizeLinear -> DequantizeLinear -> readers
        source -> Relu -> value -> readers     becomes    source -> QuantizeLinear -> DequantizeLinear -> readers
        """
        source = self._placement.resident.get(value)
        low, high = self._range(value)
        cut_off = source not in (None, value)  # where a Clip went, both ends of the range do its work
        if self._grid.symmetric and low < 0 and not cut_off:
            low, high = min(low, -high), max(high, -low)
        affine = self._affine[value] = affine_of_range(low, high, self._grid.activation)
        if source is None:
            self._hand_out(value, "activation", self._quantized(value, affine, value.name))
            return
        readers = tuple(value.uses())
        read_back = self._read_back[value] = self._quantized(source, affine, value.name)
        for node, index in readers:
            node.replace_input_with(index, read_back)
        self._take_over_output(value, read_back)
        if source is not value:
            self._graph.graph.remove(value.producer(), safe=True)

    def _factor(self, value: onnx_ir.Value) -> None:
        affine = symmetric_of_range(*self._range(value), max(self._grid.weight_bits, _LEAST_FACTOR_BITS))
        source = self._read_back.get(value, value)
        self._hand_out(value, "factor", self._quantized(source, affine, f"{value.name}/factor"))

    def _weight(self, value: onnx_ir.Value, axis: int | None, reads: list[_Read]) -> None:
        """Quantize a weight once for all operators that read it along this axis, and their biases."""
        biases = {read.node: self._bias_array(read.node) for read in reads}
        floors = [bias_floor(bias, self._input_scale(node)) for node, bias in biases.items() if bias is not None]
        floor = np.max(floors, axis=0) if floors else 0.0
        if not self._grid.per_channel:
            axis, floor = None, np.max(floor)
        tensor = known_constant(value).numpy()
        quantized = quantize_weight(tensor, axis, self._grid.weight_bits, floor, value.name)
        if codes_key(value) in self._statistics:
            quantized = replace(quantized, values=self._statistics[codes_key(value)])
        read_back = self._stored(quantized, value.name, reads[0].node, self._grid.packed)
        for read in reads:
            read.node.replace_input_with(read.slot.index, read_back)
            bias = biases[read.node]
            if bias is not None:
                self._bias(read.node, bias, quantized.affine.scale)
        drop_unused(value)

    def _table(self, value: onnx_ir.Value, read: _Read) -> None:
        """Store a table of rows in int8 and dequantize the rows that were looked up.

        table -> Gather -> rows        becomes        int8 table -> Gather -> DequantizeLinear -> rows
        """
        quantized = quantize_weight(known_constant(value).numpy(), read.slot.axis, bits=8, name=value.name)
        integers = add_constant(self._graph, _fresh(f"{value.name}/quantized", self._taken), quantized.values)
        scale, zero_point = self._constants(quantized.affine, value.name)
        rows = read.node.outputs[0]
        readers = tuple(rows.uses())
        read.node.replace_input_with(0, integers)
        node = self._node("DequantizeLinear", [rows, scale, zero_point], f"{rows.name}/dequantize", {"axis": -1})
        self._graph.graph.insert_after(read.node, node)
        read_back = _typed_like(rows, node.outputs[0])
        rows.dtype = integers.dtype
        for reader, index in readers:
            reader.replace_input_with(index, read_back)
        self._take_over_output(rows, read_back)
        drop_unused(value)

    def _bias(self, node: onnx_ir.Node, bias: np.ndarray, weight_scale: np.ndarray) -> None:
        old = node.inputs[_BIAS]
        if bias_key(node) in self._statistics:
            bias = bias - self._statistics[bias_key(node)]
        quantized = quantize_bias(bias, self._input_scale(node), weight_scale)
        node.replace_input_with(_BIAS, self._stored(quantized, f"{operator_name(node)}/bias", node))
        drop_unused(old)

    def _bias_array(self, node: onnx_ir.Node) -> np.ndarray | None:
        """Return the bias with one element per output channel, or None where there is none."""
        slots = {slot.role: slot for slot in self._placement.slots[node]}
        if "bias" not in slots:
            return None
        bias = known_constant(node.inputs[_BIAS]).numpy().reshape(-1)
        n_channels = known_constant(node.inputs[slots["weight"].index]).shape[slots["weight"].axis]
        return np.broadcast_to(bias, (n_channels,))

    def _input_scale(self, node: onnx_ir.Node) -> np.ndarray:
        return self._affine[self._placement.input_of[node]].scale

    def _range(self, value: onnx_ir.Value) -> tuple[float, float]:
        name = self._placement.source(value).name
        if name not in self._statistics:
            raise UsageError(f"the statistics hold no range of tensor {name!r}; calibrate with this same model")
        low, high = self._statistics[name]
        return low, high

    def _hand_out(self, value: onnx_ir.Value, role: Role, read_back: onnx_ir.Value) -> None:
        for read in self._reads[value, role]:
            read.node.replace_input_with(read.slot.index, read_back)

    def _quantized(self, value: onnx_ir.Value, affine: Affine, name: str) -> onnx_ir.Value:
        """Put QuantizeLinear and DequantizeLinear behind a value; return what is read back."""
        scale, zero_point = self._constants(affine, name)
        quantize = self._node("QuantizeLinear", [value, scale, zero_point], f"{name}/quantize")
        read_back = self._node("DequantizeLinear", [quantize.outputs[0], scale, zero_point], f"{name}/dequantize")
        producer = value.producer()
        if producer is None:
            self._graph.graph.insert_before(self._graph.graph[0], [quantize, read_back])
        else:
            self._graph.graph.insert_after(producer, [quantize, read_back])
        return _typed_like(value, read_back.outputs[0])

    def _stored(self, tensor: QuantizedTensor, name: str, reader: onnx_ir.Node, packed: bool = False) -> onnx_ir.Value:
        """Store integers as an initializer, with a DequantizeLinear before its first reader; return what is read."""
        integers = add_constant(self._graph, _fresh(f"{name}/quantized", self._taken), tensor.values)
        if packed:
            integers = self._unpacked(integers, reader)
        scale, zero_point = self._constants(tensor.affine, name)
        axis = {} if tensor.axis is None else {"axis": tensor.axis}
        node = self._node("DequantizeLinear", [integers, scale, zero_point], f"{name}/dequantize", axis)
        self._graph.graph.insert_before(reader, node)
        return node.outputs[0]

    def _unpacked(self, integers: onnx_ir.Value, reader: onnx_ir.Node) -> onnx_ir.Value:
        """Store integers in 4 bits and read them as int8.

        int4 -> Cast to int8 ->        Engines compute the Cast as they load the model. DequantizeLinear of int4 itself
        keeps ONNX Runtime and OpenVINO from computing in integers.
        """
        import onnx_ir

        tensor = known_constant(integers)
        integers.const_value = onnx_ir.Tensor(tensor.numpy(), dtype=onnx_ir.DataType.INT4, name=integers.name)
        integers.dtype = onnx_ir.DataType.INT4
        cast = self._node("Cast", [integers], f"{integers.name}/int8", {"to": int(onnx_ir.DataType.INT8)})
        cast.outputs[0].dtype = onnx_ir.DataType.INT8
        cast.outputs[0].shape = integers.shape
        self._graph.graph.insert_before(reader, cast)
        return cast.outputs[0]

    def _constants(self, affine: Affine, name: str) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        scale = add_constant(self._graph, _fresh(f"{name}/scale", self._taken), affine.scale)
        return scale, add_constant(self._graph, _fresh(f"{name}/zero_point", self._taken), affine.zero_point)

    def _node(
        self, op_type: str, inputs: list[onnx_ir.Value], name: str, attributes: dict[str, int] | None = None
    ) -> onnx_ir.Node:
        import onnx_ir

        node = onnx_ir.node(op_type, inputs, attributes or {}, name=_fresh(name, self._taken_by_nodes))
        node.outputs[0].name = _fresh(name, self._taken)
        return node

    def _take_over_output(self, value: onnx_ir.Value, read_back: onnx_ir.Value) -> None:
        """Where `value` was an output of the graph, make `read_back` that output, under the same name."""
        outputs = self._graph.graph.outputs
        if not value.is_graph_output():
            return
        name = value.name
        value.name, read_back.name = _fresh(f"{name}/float", self._taken), name
        outputs[:] = [read_back if output is value else output for output in outputs]


def _fresh(name: str, taken: set[str]) -> str:
    """Return the name, or the name with the first number behind it that is not taken; it is taken then."""
    free, count = name, 0
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free


def _typed_like(value: onnx_ir.Value, new: onnx_ir.Value) -> onnx_ir.Value:
    new.type, new.shape = copy.copy(value.type), None if value.shape is None else value.shape.copy()
    return new
