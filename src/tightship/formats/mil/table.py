"""The tables of MIL operators: one small function per operator, its signature being the schema.

    @op("softmax")
    def softmax(x: Operand, *, axis: int = -1, build: Build) -> Value: ...

Positional parameters take operands under MIL's names; keyword-only ones take values that must be known when the program
is read. `build`, which makes ONNX operators, is no input of MIL. Versions are those of iOS: 15 to 18.

`DECOMPRESSED` holds the operators of compressed constants, whose functions work on numpy arrays.
"""

from __future__ import annotations

from tightship.core.operators import Operators

__all__ = ["DECOMPRESSED", "INJECTED", "NEWEST", "OPERATORS", "OPSETS", "REASONS", "SEVERAL", "WALKED"]

OPERATORS = Operators()
DECOMPRESSED = Operators()

OPSETS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 18}
"""The opsets that a program may name, and the version of iOS whose operators they have; the newest adds none."""

NEWEST = max(OPSETS.values())

INJECTED = ("build",)

SEVERAL = frozenset({"values", "ref_tensors", "begins", "ends", "end_masks", "loop_vars", "elem_shape"})
"""Inputs that take any number of operands."""

WALKED = ("const",)
"""What the walk itself answers for."""

REASONS = {
    "read_state": "a graph keeps no state between runs; convert the model with the state as inputs and outputs",
    "write_state": "a graph keeps no state between runs; convert the model with the state as inputs and outputs",
    "coreml_update_state": "a graph keeps no state between runs",
    "custom_layer": "what it computes is not in the file",
    "_const_symbolic": "it exists while coremltools converts, and is never saved",
}
"""Why an operator has no entry."""
