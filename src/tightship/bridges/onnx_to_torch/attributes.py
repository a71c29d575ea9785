"""Attributes of nodes as the functions of the table take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tightship.bridges.onnx_to_torch.dtypes import carrier, type_name

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["plain"]

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "softmax_precision")
"""Attributes that are the number of an element type; functions are given torch's type, None for 0."""


def plain(attribute: onnx_ir.Attr) -> Any:
    """Return a number, a text, a torch type or a list; NotImplemented for tensors, graphs and all else."""
    import onnx_ir

    kind, value = attribute.type, attribute.value
    if kind == onnx_ir.AttributeType.INT and attribute.name in _TYPE_ATTRIBUTES:
        return carrier(type_name(value)) if value else None
    if kind in (onnx_ir.AttributeType.INTS, onnx_ir.AttributeType.FLOATS, onnx_ir.AttributeType.STRINGS):
        return list(value)
    if kind in (onnx_ir.AttributeType.INT, onnx_ir.AttributeType.FLOAT, onnx_ir.AttributeType.STRING):
        return value
    if kind == onnx_ir.AttributeType.TYPE_PROTO:
        return None  # sequences and optionals of Python have no type
    return NotImplemented
