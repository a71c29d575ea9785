"""How many steps of an 8-bit output one step of what lies before it is worth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["steps_behind_squashing"]

_STEEPEST = {"Softmax": 0.25, "Sigmoid": 0.25}
"""The largest derivative of functions that outputs often end with: p (1 - p) is at most 1/4."""


def steps_behind_squashing(graph: onnx_ir.Model) -> int:
    """Return the most steps that an output moves by when what its Softmax or Sigmoid reads moves by one step.

    Where logits are rounded to a step `s` and probabilities to `t`, that is `s / 4 / t`: engines that round one logit
    to either side of a tie are so far apart. Zero where no output ends that way.
    """
    return max((_steps(value) for value in graph.graph.outputs), default=0)


def _steps(output: onnx_ir.Value) -> int:
    quantize = output.producer()
    squash = _made_by(quantize)
    dequantize = _made_by(squash)
    types = [node.op_type if node is not None else "" for node in (quantize, squash, dequantize)]
    if types[0] != "QuantizeLinear" or types[1] not in _STEEPEST or types[2] != "DequantizeLinear":
        return 0
    output_step, logit_step = _scale(quantize), _scale(dequantize)
    return math.ceil(_STEEPEST[types[1]] * logit_step / output_step) if output_step and logit_step else 0


def _made_by(node: onnx_ir.Node | None) -> onnx_ir.Node | None:
    """Return the operator that computes the first input of another."""
    first = node.inputs[0] if node is not None and node.inputs else None
    return None if first is None else first.producer()


def _scale(node: onnx_ir.Node | None) -> float | None:
    """Return the scale of a QuantizeLinear or DequantizeLinear that has one for the whole tensor."""
    value = None if node is None else node.inputs[1]
    tensor = None if value is None else value.const_value
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None
