"""Which constant expressions are worth computing beforehand: those whose result takes no more room than they do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tightship.passes.editing import constant

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["MOST_NEW_ELEMENTS", "FoldBudget"]

MOST_NEW_ELEMENTS = 1024
"""Results of more elements than this are kept only if they have no more than the constants they replace."""

_SMALL_BYTES = 4096
_ALL_GROWTH_BYTES = 65536

_OPERATOR_BYTES = 64
"""What an operator itself takes in a file, and is saved when its result is stored instead."""

_CHEAP = frozenset(
    {"Add", "Div", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"}
    | {
        "Cast",
        "Concat",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that take time in proportion to their result, so that large weights may go through them too."""

_NEVER = frozenset({"Bernoulli", "Dropout", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"})
"""Random ones, and those whose result stands for something smaller."""


class FoldBudget:
    """Decides for onnxscript's constant folding. All growth it allows to one model stays below 64 KiB."""

    def __init__(self) -> None:
        self._left_bytes = _ALL_GROWTH_BYTES

    def should_fold(self, node: onnx_ir.Node) -> bool | None:
        """True or False: fold or do not; None leaves it to onnxscript's own rule (small inputs only)."""
        if node.op_type in _NEVER:
            return False
        result = _result_bytes(node)
        if result is None:
            return None
        growth = result - _freed_bytes(node) - _OPERATOR_BYTES
        if growth <= 0:
            return True if node.op_type in _CHEAP and node.domain == "" else None
        if growth > min(_SMALL_BYTES, self._left_bytes):
            return False
        self._left_bytes -= growth
        return None


def _result_bytes(node: onnx_ir.Node) -> int | None:
    """Bytes of the only output, or None where there are several or its shape or type is unknown."""
    if len(node.outputs) != 1:
        return None
    value = node.outputs[0]
    if value.dtype is None or value.shape is None or not value.shape.is_static():
        return None
    size: int = math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize)
    return size


def _freed_bytes(node: onnx_ir.Node) -> int:
    """Bytes of the constants that only this operator reads."""
    tensors = [constant(value) for value in node.inputs if value is not None and len(value.uses()) == 1]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
