"""A graph under construction: operators are added one by one and each result's type and shape is known at once.

What depends on constants only and is small is computed while building, so that shape arithmetic leaves no operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError

if TYPE_CHECKING:
    import onnx
    import onnx_ir

__all__ = ["IR_VERSION", "OPSET", "Network"]

OPSET = 20
IR_VERSION = 9

_LARGEST_FOLDED = 2**16
"""Elements of a constant result that is still computed while building."""

_NOT_FOLDED = frozenset({"RandomNormalLike", "RandomUniformLike", "Multinomial", "Identity"})
"""Random numbers, and what only gives a value a name."""


class Network:
    """The nodes, constants and names of one graph; `body` starts one inside it, which shares names and constants."""

    def __init__(self, reserved: Iterable[str] = (), outer: Network | None = None) -> None:
        self.nodes: list[onnx_ir.Node] = []
        self.initializers: list[onnx_ir.Value] = outer.initializers if outer else []
        self._names: set[str] = outer._names if outer else set(reserved)
        self.layer: str = outer.layer if outer else ""

    def body(self) -> Network:
        """Start a subgraph that sees this graph's values."""
        return Network(outer=self)

    # Names

    def name_next(self, layer: str) -> None:
        """Say which layer the next operators belong to."""
        self.layer = layer

    def rename(self, value: onnx_ir.Value, name: str) -> None:
        """Call a value `name`, or that with a number behind it where the name is taken."""
        value.name = self.unique(name)
        if value.const_value is not None:
            value.const_value.name = value.name

    def unique(self, name: str) -> str:
        """Return `name`, or `name` with a number behind it where it is taken."""
        free, count = name, 0
        while free in self._names:
            count += 1
            free = f"{name}_{count}"
        self._names.add(free)
        return free

    # Operators

    def op(self, kind: str, *inputs: onnx_ir.Value | None, **attributes: Any) -> onnx_ir.Value:
        """Add an operator with one result."""
        return self.ops(kind, *inputs, results=1, **attributes)[0]

    def ops(
        self, kind: str, *inputs: onnx_ir.Value | None, results: int, **attributes: Any
    ) -> tuple[onnx_ir.Value, ...]:
        """Add an operator with several results; raises `InvalidModel` where its inputs do not fit it."""
        import onnx_ir

        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        node = onnx_ir.node(kind, given, attributes=_present(attributes), num_outputs=results)
        for index, value in enumerate(node.outputs):
            value.name = self.unique(f"{self.layer or kind}/{kind}" + (f"/{index}" if index else ""))
        self._describe(node)
        folded = self._folded(node)
        if folded is not None:
            return folded
        node.name = node.outputs[0].name
        self.nodes.append(node)
        return tuple(node.outputs)

    def subgraph_op(
        self, kind: str, inputs: Sequence[onnx_ir.Value], described: Sequence[onnx_ir.Value], **attributes: Any
    ) -> tuple[onnx_ir.Value, ...]:
        """Add If or Loop, whose results have the types of `described`."""
        import onnx_ir

        node = onnx_ir.node(kind, inputs, attributes=attributes, num_outputs=len(described))
        for value, like in zip(node.outputs, described, strict=True):
            value.name, value.type, value.shape = self.unique(f"{self.layer}/{kind}"), like.type, like.shape
        node.name = node.outputs[0].name
        self.nodes.append(node)
        return tuple(node.outputs)

    # Constants

    def constant(self, array: np.ndarray, name: str = "") -> onnx_ir.Value:
        """Add a constant in the array's own type."""
        import onnx_ir

        free = self.unique(name or f"{self.layer}/constant")
        tensor = onnx_ir.tensor(np.ascontiguousarray(array).reshape(np.shape(array)), name=free)
        value = onnx_ir.Value(name=free, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)
        self.initializers.append(value)
        return value

    def number(self, value: float) -> onnx_ir.Value:
        """Add a float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def ints(self, values: Iterable[int]) -> onnx_ir.Value:
        """Add an int64 vector."""
        return self.constant(np.array([int(value) for value in values], np.int64))

    def known(self, value: onnx_ir.Value) -> np.ndarray | None:
        """Return the array of a constant, None for what is computed at run time."""
        return None if value.const_value is None else np.asarray(value.const_value.numpy())

    # Shapes

    def shape(self, value: onnx_ir.Value) -> list[int | None]:
        """Return the dimensions, None where they are known at run time only; raises `UnsupportedError` without rank."""
        if value.shape is None:
            raise UnsupportedError(f"layer {self.layer!r}: the rank of {value.name!r} is known at run time only")
        return [dim if isinstance(dim, int) else None for dim in value.shape]

    def rank(self, value: onnx_ir.Value) -> int:
        """Return the number of dimensions."""
        return len(self.shape(value))

    def static(self, value: onnx_ir.Value, *axes: int) -> list[int]:
        """Return dimensions (all without `axes`) that have to be known; raises `UnsupportedError` where one is not."""
        shape = self.shape(value)
        wanted = [shape[axis] for axis in axes] if axes else shape
        known = [dim for dim in wanted if dim is not None]
        if len(known) < len(wanted):
            raise UnsupportedError(
                f"layer {self.layer!r}: needs the size of {value.name!r}, found {shape}; fix the input shape"
            )
        return known

    def dims(self, value: onnx_ir.Value, start: int = 0, end: int | None = None) -> onnx_ir.Value:
        """Return shape[start:end] as an int64 vector, constant where it is known."""
        wanted = self.shape(value)[start:end]
        if all(dim is not None for dim in wanted):
            return self.ints(dim for dim in wanted if dim is not None)
        return self.op("Shape", value, start=start, end=end)

    def reshape(self, value: onnx_ir.Value, *parts: Sequence[int] | onnx_ir.Value) -> onnx_ir.Value:
        """Reshape to the concatenation of `parts`: integers, or int64 vectors of the graph."""
        pieces = [self.ints(part) if isinstance(part, Sequence) else part for part in parts]
        target = pieces[0] if len(pieces) == 1 else self.op("Concat", *pieces, axis=0)
        result = self.op("Reshape", value, target)
        if result.shape is None:
            self.set_rank(result, self.static(target, 0)[0])
        return result

    def set_rank(self, value: onnx_ir.Value, rank: int) -> None:
        """Note a rank that the operator's own shape inference cannot tell."""
        import onnx_ir

        if value.shape is None:
            value.shape = onnx_ir.Shape([None] * rank)

    # Recurring steps

    def squeeze(self, value: onnx_ir.Value, *axes: int) -> onnx_ir.Value:
        """Remove axes of size 1."""
        return self.op("Squeeze", value, self.ints(axes)) if axes else value

    def unsqueeze(self, value: onnx_ir.Value, *axes: int) -> onnx_ir.Value:
        """Insert axes of size 1."""
        return self.op("Unsqueeze", value, self.ints(axes)) if axes else value

    def cast(self, value: onnx_ir.Value, dtype: str) -> onnx_ir.Value:
        """Cast to `float`, `int64`, `int32` or `bool`; nothing is added where it has this type."""
        import onnx_ir

        to = {"float": onnx_ir.DataType.FLOAT, "int32": onnx_ir.DataType.INT32}.get(dtype)
        to = to or (onnx_ir.DataType.BOOL if dtype == "bool" else onnx_ir.DataType.INT64)
        return value if value.dtype == to else self.op("Cast", value, to=to.value)

    def folded_to(
        self, value: onnx_ir.Value, rank: int, work: Callable[[onnx_ir.Value], onnx_ir.Value]
    ) -> onnx_ir.Value:
        """Run `work` on the value with its leading axes folded into one (or one added) so that it has this rank."""
        found = self.rank(value)
        if found == rank:
            return work(value)
        if found == rank - 1:
            return self.squeeze(work(self.unsqueeze(value, 0)), 0)
        if found < rank:
            raise InvalidModel(f"layer {self.layer!r}: expected an input of rank {rank - 1} or more, found {found}")
        kept = rank - 1
        folded = work(self.reshape(value, [-1], self.dims(value, found - kept)))
        return self.reshape(folded, self.dims(value, 0, found - kept), self.dims(folded, 1))

    # Inference

    def _describe(self, node: onnx_ir.Node) -> None:
        """Set the types and shapes of a node's outputs from ONNX's own inference for its operator."""
        import onnx
        import onnx_ir
        from onnx.shape_inference import infer_node_outputs

        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
        present = [value for value in node.inputs if value is not None]
        types = {value.name: onnx_ir.serde.serialize_value(value).type for value in present}
        data = {value.name: _small_tensor(value) for value in present if _is_small(value)}
        opset = onnx.helper.make_opsetid("", OPSET)
        try:
            found = infer_node_outputs(
                schema, onnx_ir.serde.serialize_node(node), types, data, opset_imports=[opset], ir_version=IR_VERSION
            )
        except Exception as error:  # onnx raises many types here; each means that the inputs do not fit
            raise InvalidModel(f"layer {self.layer!r}: {node.op_type} does not take its inputs: {error}") from error
        for value in node.outputs:
            if value.name in found:
                value.type, value.shape = _type_and_shape(found[value.name])

    def _folded(self, node: onnx_ir.Node) -> tuple[onnx_ir.Value, ...] | None:
        """Compute a node whose inputs are constants and whose results are small; None where that is not so."""
        import onnx_ir
        from onnx.reference import ReferenceEvaluator

        present = [value for value in node.inputs if value is not None]
        if not present or node.op_type in _NOT_FOLDED or not all(_is_small(value) for value in present):
            return None
        if not all(_size(value) <= _LARGEST_FOLDED for value in node.outputs):
            return None
        evaluator = ReferenceEvaluator(onnx_ir.serde.serialize_node(node), opsets={"": OPSET})
        feeds = {value.name: np.asarray(value.const_value.numpy()) for value in present}
        for value in node.outputs:
            self._names.discard(value.name)
        return tuple(
            self.constant(np.asarray(array), value.name)
            for array, value in zip(evaluator.run(None, feeds), node.outputs, strict=True)
        )


def _present(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _size(value: onnx_ir.Value) -> float:
    if value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        return math.inf
    return float(math.prod(value.shape))


def _is_small(value: onnx_ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size <= _LARGEST_FOLDED


def _small_tensor(value: onnx_ir.Value) -> onnx.TensorProto:
    import onnx_ir

    return onnx_ir.serde.serialize_tensor(value.const_value)


def _type_and_shape(found: onnx.TypeProto) -> tuple[Any, Any]:
    import onnx_ir

    return onnx_ir.serde.deserialize_type_proto_for_type(found), onnx_ir.serde.deserialize_type_proto_for_shape(found)
