"""An ONNX graph to an `fx.GraphModule`, node by node; subgraphs become modules inside it.

A value of the graph is a constant, a tensor, or numbers: shape arithmetic stays in Python integers, so that it needs no
tensors and torch.export can follow it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tightship.bridges.onnx_to_torch.attributes import plain
from tightship.bridges.onnx_to_torch.constants import Constant, as_numbers, folded, literal, of_value
from tightship.bridges.onnx_to_torch.dtypes import BOUNDARY, carrier
from tightship.bridges.onnx_to_torch.layers import Call, Plain, layer_of
from tightship.bridges.onnx_to_torch.names import Names, class_name, identifier
from tightship.bridges.onnx_to_torch.operators.numbers import as_tensor, to_list, to_number
from tightship.bridges.onnx_to_torch.operators.types import WRAPPED, to_bits
from tightship.bridges.onnx_to_torch.preparation import domain_of, opset_of
from tightship.bridges.onnx_to_torch.table import INJECTED, OPERATORS, SHAPES
from tightship.core.graph import operator_name
from tightship.core.operators import Entry
from tightship.errors import InvalidModel, TightshipError

if TYPE_CHECKING:
    import onnx_ir
    import torch

__all__ = ["lower"]

_NUMBERS = ("int", "float", "bool")
_LISTS = tuple(f"list[{name}" for name in _NUMBERS)
_ARITHMETIC = ("Add", "Sub", "Mul", "Neg", "Pow", "BitShift", "BitwiseNot", "Sum", "CumSum", "CumProd", "MatMul")
"""Operators that can leave the range of an integer type that is carried in a wider one."""


@dataclass(frozen=True)
class Computed:
    """A value that the module computes; `numbers` where it is Python numbers, not a tensor."""

    node: torch.fx.Node
    numbers: bool = False


@dataclass
class Shared:
    """What a graph and its subgraphs have in common."""

    model: onnx_ir.Model
    parameters: dict[tuple[onnx_ir.Value | Constant, str], torch.nn.Parameter] = field(default_factory=dict)


def lower(model: onnx_ir.Model) -> torch.fx.GraphModule:
    """Return the module of a prepared graph; it gives a dict by output name. Raises `InvalidModel`."""
    lowering = _Lowering(model.graph, Shared(model))
    return lowering.module(
        lambda outputs: dict(zip((value.name for value in model.graph.outputs), outputs, strict=True))
    )


class _Lowering:
    """The lowering of one graph; `outer` is that of the graph around it, whose values it may read."""

    def __init__(self, graph: onnx_ir.Graph, shared: Shared, outer: _Lowering | None = None) -> None:
        import torch

        self._graph = graph
        self._shared = shared
        self._outer = outer
        self._fx = torch.fx.Graph()
        self._root = torch.nn.Module()
        self._names = Names({"forward", "training", *dir(torch.nn.Module)})
        self._values: dict[onnx_ir.Value, Constant | Computed] = {}
        self._materialised: dict[onnx_ir.Value, torch.fx.Node] = {}
        self._targets: dict[tuple[Any, ...], str] = {}
        self._placeholder: torch.fx.Node | None = None
        self._absorbed: dict[onnx_ir.Node, Constant | Computed] = {}
        self.captured: list[torch.fx.Node] = []

    def module(self, returned: Callable[[list[Any]], Any]) -> torch.fx.GraphModule:
        """Lower all nodes; `returned` makes the module's result of the list of outputs."""
        import torch

        for value in self._graph.inputs:
            if self._outer is not None or value.name not in self._graph.initializers:
                self._values[value] = Computed(self._input(value))
        for node in self._graph:
            try:
                self._lower(node)
            except (TightshipError, RecursionError):
                raise
            except Exception as error:  # torch raises anything on weights and settings that do not fit
                raise InvalidModel(f"{operator_name(node)} ({node.op_type}) cannot be converted: {error}") from error
        self._fx.output(returned([self._output(value) for value in self._graph.outputs]))
        # What only unused outputs needed goes before the module is made: it copies what its code reads.
        self._fx.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        return torch.fx.GraphModule(self._root, self._fx, class_name=class_name(self._graph.name or ""))

    # Inputs, outputs and constants

    def _input(self, value: onnx_ir.Value) -> torch.fx.Node:
        node = self._new_placeholder(value.name or "x")
        name = value.dtype.name.lower() if value.dtype is not None else ""
        if self._outer is None and name in BOUNDARY:
            return self._fx.call_method("to", (node, carrier(name)))
        return node

    def _new_placeholder(self, name: str) -> torch.fx.Node:
        """Add a parameter of forward, after those that there are."""
        where = self._fx.inserting_after(self._placeholder) if self._placeholder else self._fx.inserting_before()
        unique = self._names.new(name)
        with where:
            self._placeholder = self._fx.create_node("placeholder", unique, name=unique)
        return self._placeholder

    def _output(self, value: onnx_ir.Value) -> torch.fx.Node:
        import torch

        node = self._tensor(value)
        name = value.dtype.name.lower() if value.dtype is not None else ""
        if self._outer is None and name in BOUNDARY and not isinstance(value.type, _sequence_types()):
            return self._fx.call_method("to", (node, getattr(torch, BOUNDARY[name])))
        return node

    def held(self, value: onnx_ir.Value) -> Constant | Computed:
        """Return what a value is here; one of an outer graph is captured, as one more input of this one."""
        if value not in self._values:
            constant = of_value(value)
            if constant is not None:
                self._values[value] = constant
            elif self._outer is None:
                raise InvalidModel(f"value {value.name!r} is used but neither an input nor computed before")
            else:
                self._values[value] = self._capture(value)
        return self._values[value]

    def _capture(self, value: onnx_ir.Value) -> Constant | Computed:
        assert self._outer is not None
        held = self._outer.held(value)
        if isinstance(held, Constant):
            return held
        self.captured.append(held.node)
        return Computed(self._new_placeholder(value.name or "captured"), held.numbers)

    def _tensor(self, value: onnx_ir.Value) -> torch.fx.Node:
        """Return the node that holds a value as a tensor (or sequence)."""
        held = self.held(value)
        if isinstance(held, Computed) and not held.numbers:
            return held.node
        if value not in self._materialised:
            if isinstance(held, Constant):
                self._materialised[value] = self._attribute(held, value)
            else:
                dtype = carrier(value.dtype.name.lower()) if value.dtype is not None else carrier("int64")
                self._materialised[value] = self._call(as_tensor, (held.node,), {"dtype": dtype}, value.name or "")
        return self._materialised[value]

    def _attribute(self, constant: Constant, key: onnx_ir.Value | Constant) -> torch.fx.Node:
        """Store a constant in the module: float weights as parameters, which training may change, others as buffers."""
        target = self._names.new(constant.name, "constant")
        if constant.trainable:
            self._root.register_parameter(target, self._parameter(key, constant))
        else:
            self._root.register_buffer(target, constant.tensor)
        return self._fx.create_node("get_attr", target, name=target)

    def _parameter(self, key: onnx_ir.Value | Constant, constant: Constant, layout: str = "") -> torch.nn.Parameter:
        """Return one parameter per constant and layout (`T`: transposed), so that shared weights stay shared."""
        import torch

        if (key, layout) not in self._shared.parameters:
            tensor = constant.tensor.t().contiguous() if layout == "T" else constant.tensor
            self._shared.parameters[key, layout] = torch.nn.Parameter(tensor)
        return self._shared.parameters[key, layout]

    # Nodes

    def _lower(self, node: onnx_ir.Node) -> None:
        if node.op_type == "Constant" and domain_of(node) == "":
            self._values[node.outputs[0]] = literal(node)
            return
        if node in self._absorbed:
            self._values[node.outputs[0]] = self._absorbed[node]
            return
        if node.op_type == "Identity" and domain_of(node) == "" and node.inputs[0] is not None:
            self._values[node.outputs[0]] = self.held(node.inputs[0])
            return
        opset = opset_of(self._shared.model, domain_of(node))
        entry = OPERATORS.find(node.op_type, opset, domain_of(node))
        assert entry is not None, "preparation refuses operators without an entry"
        held = [None if value is None else self.held(value) for value in node.inputs]
        constant = folded(node, entry, held)
        shapes = None if constant else self._on_numbers(node, opset, held)
        if constant is not None:
            self._values[node.outputs[0]] = constant
        elif shapes is not None:
            call = self._call(
                shapes.function, self._arguments(node, shapes), self._attributes(node, shapes), _name(node)
            )
            self._values[node.outputs[0]] = Computed(call, numbers=True)
        elif not self._lower_to_layer(node, entry, opset, held):
            call = self._call(entry.function, self._arguments(node, entry), self._attributes(node, entry), _name(node))
            self._keep(node, call, several=_gives_several(entry))

    def _on_numbers(self, node: onnx_ir.Node, opset: int, held: list[Constant | Computed | None]) -> Entry | None:
        """The entry that computes a node in Python numbers, where its inputs are such."""
        entry = SHAPES.find(node.op_type, opset, domain_of(node))
        output = node.outputs[0]
        if entry is None or output.shape is None or len(output.shape) > 1:
            return None
        if node.op_type in ("Shape", "Size"):
            return entry
        if entry.unknown(node.attributes):
            return None
        numbers = [isinstance(item, Computed) and item.numbers for item in held]
        known = [isinstance(item, Constant) and item.small for item in held]
        fits = all(
            number or constant or item is None for number, constant, item in zip(numbers, known, held, strict=True)
        )
        return entry if any(numbers) and fits else None

    def _lower_to_layer(
        self, node: onnx_ir.Node, entry: Entry, opset: int, held: list[Constant | Computed | None]
    ) -> bool:
        """Make a layer of torch.nn of the node where there is one that means the same."""
        if domain_of(node) != "":
            return False
        attributes = {
            name: node.attributes[name].value if name in node.attributes else default
            for name, default in entry.attributes.items()
        }

        def share(value: onnx_ir.Value, layout: str) -> torch.nn.Parameter:
            constant = self.held(value)
            assert isinstance(constant, Constant)
            return self._parameter(value, constant, layout)

        def find(value: onnx_ir.Value) -> torch.Tensor | None:
            constant = self._values.get(value) or of_value(value)
            return constant.tensor if isinstance(constant, Constant) else None

        constants = tuple(item.tensor if isinstance(item, Constant) else None for item in held)
        given = tuple(item is not None for item in held)
        layer = layer_of(Call(node, opset, attributes, constants, given, find, share))
        if layer is None:
            return False
        if isinstance(layer, Plain):
            self._keep(node, self._plain_call(node, layer), several=False)
            return True
        key = (
            node.op_type,
            *(value for value, constant in zip(node.inputs, constants, strict=True) if constant is not None),
            repr(sorted(attributes.items(), key=operator.itemgetter(0))),
        )
        if key not in self._targets:
            self._targets[key] = self._names.new(_layer_name(node, layer.absorbs))
            self._root.add_module(self._targets[key], layer.module)
        inputs = [self._tensor(value) for index in layer.inputs if (value := node.inputs[index]) is not None]
        if layer.before is not None:
            function, settings = layer.before
            inputs[0] = self._call(function, (inputs[0],), settings, f"{inputs[0].name}_{function.__name__}")
        result = self._fx.create_node(
            "call_module", self._targets[key], layer.arguments(*inputs), name=identifier(_name(node))
        )
        if layer.after is not None:
            result = self._call(layer.after[0], (result, *layer.after[1]), {}, _name(node))
        self._keep(node, result, several=layer.several)
        if layer.absorbs is not None:
            self._absorbed[layer.absorbs] = self._values[node.outputs[0]]
        return True

    def _plain_call(self, node: onnx_ir.Node, plain: Plain) -> torch.fx.Node:
        inputs = [self._tensor(value) for index in plain.inputs if (value := node.inputs[index]) is not None]
        arguments = (inputs if plain.as_list else inputs[0], *plain.settings)
        kind = "call_method" if isinstance(plain.function, str) else "call_function"
        return self._fx.create_node(kind, plain.function, arguments, name=identifier(_name(node)))

    def _keep(self, node: onnx_ir.Node, result: torch.fx.Node, several: bool) -> None:
        for index, value in enumerate(node.outputs):
            if not several:
                self._values[value] = Computed(self._in_range(node, value, result))
                return
            if value.name and (value.uses() or value.is_graph_output()):
                item = self._call(operator.getitem, (result, index), {}, value.name)
                self._values[value] = Computed(self._in_range(node, value, item))

    def _in_range(self, node: onnx_ir.Node, value: onnx_ir.Value, result: torch.fx.Node) -> torch.fx.Node:
        """Bring what arithmetic gave back into the range of a type that is carried in a wider one."""
        name = value.dtype.name.lower() if value.dtype is not None else ""
        if node.op_type not in _ARITHMETIC or name not in WRAPPED:
            return result
        return self._call(to_bits, (result,), {"output_type": name}, value.name or "")

    def _arguments(self, node: onnx_ir.Node, entry: Entry) -> tuple[Any, ...]:
        arguments = []
        for index, value in enumerate(node.inputs):
            parameter = entry.inputs[min(index, len(entry.inputs) - 1)] if entry.inputs else None
            arguments.append(self._argument(value, str(parameter.annotation) if parameter else "Tensor"))
        while arguments and arguments[-1] is None and entry.signature is not None:
            arguments.pop()
        return tuple(arguments)

    def _argument(self, value: onnx_ir.Value | None, annotation: str) -> Any:
        """A value as a parameter of the table takes it: as a tensor, a list of numbers, a number, or as it is."""
        if value is None:
            return None
        as_list, as_number = annotation.startswith(_LISTS), annotation.startswith(_NUMBERS)
        if not as_list and not as_number and annotation != "Numbers":
            return self._tensor(value)
        held = self.held(value)
        if isinstance(held, Constant):
            return as_numbers(held, as_list or (not as_number and bool(held.shape)))
        if not held.numbers:
            return self._call(to_list if as_list else to_number, (held.node,), {}, f"{value.name}_numbers")
        if as_number and value.shape is not None and len(value.shape) == 1:
            return self._call(operator.getitem, (held.node, 0), {}, f"{value.name}_0")
        return held.node

    def _attributes(self, node: onnx_ir.Node, entry: Entry) -> dict[str, Any]:
        attributes = {
            name: self._plain(node, attribute)
            for name, attribute in node.attributes.items()
            if name in entry.attributes and attribute.value != entry.attributes[name]
        }
        injected = {"n_outputs": len(node.outputs), "output_type": _output_type(node)}
        return attributes | {name: injected[name] for name in INJECTED if name in entry.attributes}

    def _plain(self, node: onnx_ir.Node, attribute: onnx_ir.Attr) -> Any:
        """An attribute as the table's functions take it: tensors and graphs are in the module."""
        import onnx_ir

        value = attribute.value
        if attribute.type == onnx_ir.AttributeType.TENSOR:
            constant = Constant.of(value, f"{_name(node)}_{attribute.name}")
            return self._attribute(constant, constant)
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            return self._subgraph(value, f"{_name(node)}_{attribute.name}")
        result = plain(attribute)
        if result is NotImplemented:
            raise InvalidModel(
                f"{operator_name(node)}: no operator takes attribute {attribute.name}, a {attribute.type.name}"
            )
        return result

    def _subgraph(self, graph: onnx_ir.Graph, name: str) -> tuple[torch.fx.Node, list[torch.fx.Node]]:
        """Return the module of a subgraph and the values of this graph that it reads, which it takes last."""
        inner = _Lowering(graph, self._shared, self)
        module = inner.module(tuple)
        target = self._names.new(name)
        self._root.add_module(target, module)
        return self._fx.create_node("get_attr", target, name=target), inner.captured

    def _call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any], name: str
    ) -> torch.fx.Node:
        return self._fx.create_node("call_function", function, arguments, keywords, name=identifier(name))


def _name(node: onnx_ir.Node) -> str:
    """A step of the module is called as its first output."""
    return next((str(value.name) for value in node.outputs if value.name), str(node.op_type))


def _layer_name(node: onnx_ir.Node, absorbed: onnx_ir.Node | None) -> str:
    """A layer is called as its weight was (`layer1.0.conv1.weight`), else as its node."""
    values = (*node.inputs, *(absorbed.inputs if absorbed else ()))
    for suffix in (".weight", ".bias"):
        for value in values:
            if value is not None and (value.name or "").endswith(suffix):
                return str(value.name).removesuffix(suffix)
    return str(node.name or _name(node)).removeprefix("node_")


def _output_type(node: onnx_ir.Node) -> str:
    dtype = node.outputs[0].dtype
    return str(dtype.name).lower() if dtype is not None else ""


def _gives_several(entry: Entry) -> bool:
    return entry.signature is not None and str(entry.signature.return_annotation).startswith("tuple")


def _sequence_types() -> tuple[type, ...]:
    import onnx_ir

    return (onnx_ir.SequenceType, onnx_ir.OptionalType)
