"""The two tables that the modules of `operators/` fill.

`OPERATORS` works on tensors. A positional parameter that is annotated `list[int]`, `int`, `float` or `bool` is given
Python numbers: those of a constant, of shape arithmetic, or read from the tensor when the module runs. Two keyword-only
parameters are no attributes: `n_outputs` is given the number of outputs that the node has, `output_type` the ONNX name
of its first output's element type in lower case (`"uint4"`).

`SHAPES` works on Python numbers alone: shape arithmetic stays in integers, which torch.export follows symbolically.
"""

from __future__ import annotations

from tightship.core.operators import Operators

__all__ = ["INJECTED", "OPERATORS", "SHAPES"]

OPERATORS = Operators()
SHAPES = Operators()

INJECTED = ("n_outputs", "output_type")
"""Keyword-only parameters that the conversion fills; no attributes of ONNX."""
