"""A TFLite file without the rounding that its engine adds: 8-bit weights of float operators written out as float32.

Where the weights of a float operator have 8 bits ("dynamic range"), LiteRT rounds the operator's inputs to 8 bits too
while it runs, which nothing in the file says; its kernel sets differ in how
(https://ai.google.dev/edge/litert/models/post_training_quantization#dynamic_range_quantization).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["with_float_weights"]

_IDENTIFIER = b"TFL3"


def with_float_weights(data: bytes) -> bytes:
    """Return a file that computes the same in float32: this one where no weights of float operators have 8 bits."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromPackedBuf(data)
    widened = [_widen(content, subgraph, schema) for subgraph in content.subgraphs]
    if not any(widened):
        return data
    builder = flatbuffers.Builder(len(data))
    builder.Finish(content.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _widen(content: Any, subgraph: Any, schema: Any) -> int:
    """Give the float operators of a subgraph float weights; return how many weights there were."""
    made: dict[int, int] = {}
    for operator in subgraph.operators or ():
        code = content.operatorCodes[operator.opcodeIndex]
        if _kind(code) in (schema.BuiltinOperator.DEQUANTIZE, schema.BuiltinOperator.QUANTIZE):
            continue
        if any(subgraph.tensors[index].type == schema.TensorType.FLOAT32 for index in operator.outputs):
            for index in _weights(content, subgraph, operator, schema):
                made[index] = made[index] if index in made else _floated(content, subgraph, index, schema)
            operator.inputs = [made.get(index, index) for index in map(int, operator.inputs)]
    return len(made)


def _kind(code: Any) -> int:
    """Codes above 127 came later, in a field of their own."""
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _weights(content: Any, subgraph: Any, operator: Any, schema: Any) -> Iterator[int]:
    """The tensors among an operator's inputs that are constants of 8 bits with a scale."""
    for index in map(int, operator.inputs):
        tensor = subgraph.tensors[index] if index >= 0 else None
        if tensor is not None and tensor.type == schema.TensorType.INT8 and _scale(tensor) is not None:
            buffer = content.buffers[tensor.buffer]
            if buffer.data is not None and len(buffer.data):
                yield index


def _scale(tensor: Any) -> Any:
    found = tensor.quantization
    return None if found is None or found.scale is None or not len(found.scale) else found.scale


def _floated(content: Any, subgraph: Any, index: int, schema: Any) -> int:
    """Add a float32 tensor with the values of a quantized one; return its index."""
    tensor = subgraph.tensors[index]
    stored = np.asarray(content.buffers[tensor.buffer].data, np.uint8).view(np.int8).reshape(tensor.shape)
    axis = tensor.quantization.quantizedDimension
    lengths = [-1 if number == axis else 1 for number in range(stored.ndim)]
    scale = np.asarray(_scale(tensor), np.float32)
    given = tensor.quantization.zeroPoint
    zero_point = np.zeros_like(scale) if given is None else np.asarray(given, np.float32)
    if scale.size > 1:
        scale, zero_point = scale.reshape(lengths), zero_point.reshape(lengths)
    values = (stored.astype(np.float32) - zero_point) * scale
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.astype("<f4").tobytes(), np.uint8)
    content.buffers.append(buffer)
    widened = schema.TensorT()
    widened.name = b"%s_float" % (tensor.name or b"")
    widened.shape, widened.type, widened.buffer = tensor.shape, schema.TensorType.FLOAT32, len(content.buffers) - 1
    subgraph.tensors.append(widened)
    return len(subgraph.tensors) - 1
