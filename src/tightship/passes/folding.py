"""Which constant expressions are worth computing beforehand: those whose result takes no more room than they do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tightship.passes.editing import constant

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["fold_constants"]

_MOST_GROWTH_BYTES = 4096
_ALL_GROWTH_BYTES = 65536

_OPERATOR_BYTES = 64
"""What an operator itself takes in a file, and is saved when its result is stored instead."""

_SMALL_ELEMENTS = 1024
_NO_LIMIT = 2**40

_MOVING = frozenset(
    {"Add", "Div", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"}
    | {"Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that take time in proportion to their result, so that large weights may go through them too."""

_NEVER = frozenset({"Bernoulli", "Dropout", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"})
"""Random ones, and those whose result stands for something smaller."""


def fold_constants(graph: onnx_ir.Model) -> None:
    """Store the results of constant expressions in place of them; the model grows by 64 KiB at most.

    Results whose size inference does not tell are computed last and kept if they are small.
    """
    from onnxscript.optimizer import fold_constants_ir

    judge = _Judge()
    fold_constants_ir(
        graph, onnx_shape_inference=True, output_size_limit=_NO_LIMIT, should_fold=judge.should_fold_known
    )
    if judge.saw_unknown:
        fold_constants_ir(
            graph, onnx_shape_inference=True, output_size_limit=_SMALL_ELEMENTS, should_fold=_should_fold_unknown
        )


class _Judge:
    """Decides for onnxscript: True or False to fold or not, None for its own rule (small inputs only)."""

    def __init__(self) -> None:
        self.saw_unknown = False
        self._left_bytes = _ALL_GROWTH_BYTES

    def should_fold_known(self, node: onnx_ir.Node) -> bool | None:
        result = _result_bytes(node)
        if node.op_type in _NEVER or result is None:
            self.saw_unknown |= result is None
            return False
        growth = result - _freed_bytes(node) - _OPERATOR_BYTES
        if growth <= 0:
            return True if _only_moves(node) else None
        if growth > min(_MOST_GROWTH_BYTES, self._left_bytes):
            return False
        self._left_bytes -= growth
        return None


def _should_fold_unknown(node: onnx_ir.Node) -> bool | None:
    return None if _result_bytes(node) is None and node.op_type not in _NEVER else False


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
    """This operator's share of the constants that will not be needed once all their readers are computed."""
    return sum(_share(value) for value in {value for value in node.inputs if value is not None})


def _share(value: onnx_ir.Value) -> int:
    tensor = constant(value)
    readers = value.consumers()
    # Exporters reorder LSTM gates by slicing one weight several times and joining the slices.
    if tensor is None or value.is_graph_output() or not (len(readers) == 1 or all(map(_only_moves, readers))):
        return 0
    size: int = tensor.nbytes
    return size // len(readers)


def _only_moves(node: onnx_ir.Node) -> bool:
    """Whether an operator computes something simple from constants alone."""
    known = all(constant(value) is not None for value in node.inputs if value is not None)
    return bool(known and node.op_type in _MOVING and node.domain == "")
