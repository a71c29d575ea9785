"""Constants of a graph: what is known when it is lowered, and need not be computed when the module runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.bridges.onnx_to_torch.dtypes import CARRIERS, tensor_of
from tightship.core.operators import Entry

if TYPE_CHECKING:
    import onnx_ir
    import torch

__all__ = ["Constant", "as_numbers", "folded", "literal", "of_value"]

_SMALL = 1024
"""Elements of a constant that may be written as numbers, or computed with, while the graph is lowered."""

_LAYOUT = ("Cast", "Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that move a weight of any size once, instead of in every run."""

_COMPUTED = (
    *_LAYOUT, "Abs", "Add", "And", "ArgMax", "CastLike", "Ceil", "Clip", "ConstantOfShape", "Div", "Equal", "Exp",
    "Floor", "Gather", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg",
    "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Round", "Shape",
    "Size", "Sqrt", "Sub", "Where",
)  # fmt: skip
"""Operators that are computed once where all their inputs are small constants."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that is known beforehand; `source` is read when the tensor is first wanted."""

    name: str
    type: str
    source: onnx_ir.TensorProtocol | torch.Tensor

    @classmethod
    def of(cls, tensor: onnx_ir.TensorProtocol, name: str) -> Constant:
        """Wrap a tensor of the graph."""
        return cls(name, tensor.dtype.name.lower(), tensor)

    @cached_property
    def tensor(self) -> torch.Tensor:
        """The value, a copy of its own."""
        import torch

        if isinstance(self.source, torch.Tensor):
            return self.source
        return tensor_of(self.source.numpy(), self.type)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(dim) for dim in self.source.shape)

    @property
    def trainable(self) -> bool:
        """Whether this is a weight: float numbers, more than one of them."""
        weights = self.type in ("float", "double", "float16", "bfloat16")
        return weights and len(self.shape) > 0 and int(np.prod(self.shape)) > 1

    @property
    def small(self) -> bool:
        """Whether this is a number or a short list of them."""
        return len(self.shape) <= 1 and int(np.prod(self.shape)) <= _SMALL


def of_value(value: onnx_ir.Value) -> Constant | None:
    """Return the constant that an initializer holds, or None."""
    if value.const_value is None or value.producer() is not None:
        return None
    return Constant.of(value.const_value, value.name or "constant")


def literal(node: onnx_ir.Node) -> Constant:
    """Return what a Constant node holds."""
    import onnx_ir

    (attribute,) = node.attributes.values()
    name = node.outputs[0].name or "constant"
    if attribute.type == onnx_ir.AttributeType.TENSOR:
        return Constant.of(attribute.value, name)
    is_float = attribute.type in (onnx_ir.AttributeType.FLOAT, onnx_ir.AttributeType.FLOATS)
    array = np.array(attribute.value, dtype=np.float32 if is_float else np.int64)
    return Constant.of(onnx_ir.tensor(array), name)


def as_numbers(constant: Constant, as_list: bool) -> Any:
    """Return a constant as a number, or as a list of numbers."""
    if as_list:
        return constant.tensor.reshape(-1).tolist()
    return constant.tensor.reshape(-1)[0].item() if constant.tensor.numel() else None


def folded(node: onnx_ir.Node, entry: Entry, held: Sequence[Any]) -> Constant | None:
    """Compute a node whose inputs are all constants, or return None where it must stay.

    Weights of any size are only moved, and only where nothing else reads them: a weight that is shared stays one.
    """
    import torch

    output = node.outputs[0]
    constants = [item for item in held if item is not None]
    if not constants or not all(isinstance(item, Constant) for item in constants) or len(node.outputs) != 1:
        return None
    if output.dtype is None or output.dtype.name.lower() not in CARRIERS:
        return None
    values = [value for value in node.inputs if value is not None]
    readers = (reader for value in values for reader, _ in value.uses())
    moved = node.op_type in _LAYOUT and all(reader.op_type in _LAYOUT for reader in readers)
    if not moved and not (node.op_type in _COMPUTED and all(item.small for item in constants)):
        return None
    arguments = _arguments(node, entry, held)
    attributes = _attributes(node, entry)
    if attributes is None or not _stays_small(node, arguments):
        return None
    with torch.no_grad():
        result = entry.function(*arguments, **attributes)
    if not isinstance(result, torch.Tensor):
        return None
    result = result.contiguous()
    if result.untyped_storage().nbytes() > result.nbytes:  # a slice, which safetensors cannot save as a part
        result = result.clone()
    return Constant(output.name or values[0].name or "constant", output.dtype.name.lower(), result)


def _stays_small(node: onnx_ir.Node, arguments: Sequence[Any]) -> bool:
    """Whether the few numbers that a node is given do not ask for a large tensor."""
    if node.op_type == "ConstantOfShape":
        return all(0 <= n <= _SMALL for n in arguments[0]) and int(np.prod(arguments[0])) <= _SMALL
    if node.op_type == "Range":
        start, limit, delta = arguments
        return bool(delta) and (limit - start) / delta <= _SMALL
    return True


def _arguments(node: onnx_ir.Node, entry: Entry, held: Sequence[Any]) -> list[Any]:
    arguments: list[Any] = []
    for index, item in enumerate(held):
        annotation = str(entry.inputs[min(index, len(entry.inputs) - 1)].annotation) if entry.inputs else ""
        if item is None or not annotation.startswith(("list[int", "list[float", "int", "float", "bool")):
            arguments.append(None if item is None else item.tensor)
        else:
            arguments.append(as_numbers(item, annotation.startswith("list[")))
    return arguments


def _attributes(node: onnx_ir.Node, entry: Entry) -> dict[str, Any] | None:
    """The plain attributes of a node; None where it has tensors or graphs, which are not folded."""
    from tightship.bridges.onnx_to_torch.attributes import plain

    attributes = {name: plain(attribute) for name, attribute in node.attributes.items() if name in entry.attributes}
    if any(value is NotImplemented for value in attributes.values()):
        return None
    if "output_type" in entry.attributes:
        attributes["output_type"] = node.outputs[0].dtype.name.lower()
    if "n_outputs" in entry.attributes:
        attributes["n_outputs"] = 1
    return attributes
