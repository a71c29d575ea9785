"""Nodes whose inputs are all known are computed while converting, by ONNX's own reference implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.bridges.onnx_to_keras.values import Unsupported

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["MOST_BYTES", "RANDOM", "folded", "refuse_enormous"]

MOST_BYTES = 2**28
"""Constants are computed up to this size; what a hostile graph blows up further is refused."""

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def folded(node: onnx_ir.Node, inputs: Sequence[np.ndarray | None], opsets: dict[str, int]) -> list[Any] | None:
    """Return the outputs of a node on constants, or None where it cannot be computed beforehand.

    Raises `Unsupported` where they would be enormous.
    """
    import onnx
    import onnx_ir
    from onnx.reference import ReferenceEvaluator

    if node.op_type in RANDOM:
        return None
    refuse_enormous(_expected_bytes(node, inputs))
    proto = onnx_ir.to_proto(node)
    names = [f"i{index}" if array is not None else "" for index, array in enumerate(inputs)]
    del proto.input[:]
    proto.input.extend(names)
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "node", [onnx.ValueInfoProto(name=name) for name in names if name], outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(*item) for item in opsets.items()])
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    try:
        results = iter(ReferenceEvaluator(model).run(None, feeds))
    except Exception:  # what the reference cannot compute is built with Keras instead
        return None
    return [next(results) if name else None for name in proto.output]


def refuse_enormous(size: int) -> None:
    """Raise `Unsupported` above the limit for constants."""
    if size > MOST_BYTES:
        raise Unsupported(f"it computes a constant of {size / 2**20:.0f} MiB; at most {MOST_BYTES // 2**20} are kept")


def _expected_bytes(node: onnx_ir.Node, inputs: Sequence[np.ndarray | None]) -> int:
    """What inference tells of the outputs, and what operators that blow up small inputs will give."""
    size = 0
    for value in node.outputs:
        if value.shape is not None and value.shape.is_static():
            size += math.prod(value.shape.numpy()) * (value.dtype.itemsize if value.dtype else 1)
    second = inputs[1] if len(inputs) > 1 else None
    if node.op_type == "ConstantOfShape" and inputs[0] is not None:
        size = max(size, math.prod(abs(int(length)) for length in inputs[0].reshape(-1)))
    elif node.op_type in ("Expand", "Tile") and second is not None:
        size = max(size, math.prod(abs(int(length)) for length in second.reshape(-1)))
    return int(size)
