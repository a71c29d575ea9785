"""A graph converted to Keras and run: what the judge of the node cases calls.

Keras' functional models have shapes that are known when they are built. So inputs of a case that tell shapes (axes,
lengths, paddings) and weights of recurrent layers become constants first, which is how exporters write them; a case
whose inputs are all of that kind stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.bridges.node_cases import cases
from tightship.bridges.onnx_to_keras import to_keras
from tightship.core import graph

__all__ = ["run", "run_as_given", "transposes"]

_AXES_SECOND = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum"),
    *("ReduceLogSumExp", "ReduceSumSquare", "Reshape", "Squeeze", "Unsqueeze", "CumSum", "CumProd", "Expand", "Tile"),
    *("Split", "TopK", "Trilu", "OneHot", "Upsample", "CenterCropPad", "SplitToSequence", "AffineGrid", "SequenceAt"),
    "SequenceErase",
)
STRUCTURE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_AXES_SECOND, (1,)),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "GRU": (1, 2, 3),
    "LSTM": (1, 2, 3, 7),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "Pad": (1, 2, 3),
    "RNN": (1, 2, 3),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
}
"""Inputs that tell shapes, and weights of recurrent layers, by operator and position."""


@functools.cache
def _structural() -> dict[str, frozenset[str]]:
    """Names of such inputs by case; a case that is written out as other operators has those of the original."""
    return {
        case.name: frozenset(
            node.input[place]
            for node in case.model.graph.node
            for place in STRUCTURE.get(node.op_type, ())
            if place < len(node.input) and node.input[place]
        )
        for case in cases()
        if "_expanded" not in case.name
    }


def run(model: onnx.ModelProto, inputs: list[Any]) -> Sequence[Any]:
    """Convert the model, run it, and return its outputs in the graph's order."""
    return run_as_given(*_with_constants(model, inputs))


def run_as_given(model: onnx.ModelProto, feeds: list[Any]) -> Sequence[Any]:
    """The same with every input left an input: what cannot be known when Keras builds its model then fails."""
    converted = to_keras(graph.from_bytes(model.SerializeToString()))
    outputs = converted.content([np.asarray(value) for value in feeds])
    return [np.asarray(outputs[info.name]) for info in model.graph.output]


def _with_constants(model: onnx.ModelProto, inputs: list[Any]) -> tuple[onnx.ModelProto, list[Any]]:
    names = _structural().get(model.graph.name.partition("_expanded")[0], frozenset())
    values = dict(zip((info.name for info in model.graph.input), inputs, strict=True))
    constants = {
        name: np.asarray(value)
        for name, value in values.items()
        if name in names and isinstance(value, np.ndarray | np.generic)
    }
    if len(constants) == len(values):
        return model, inputs
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    left = [info for info in model.graph.input if info.name not in constants]
    del copy.graph.input[:]
    copy.graph.input.extend(left)
    return copy, [values[info.name] for info in left]


def transposes(content: Any) -> int:
    """Number of transposes in a Keras model."""
    return sum(type(operation).__name__ in ("Transpose", "Permute") for operation in content.operations)
