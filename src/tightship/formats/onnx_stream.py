"""An ONNX file written weight by weight: no more than one of them is in memory beside the graph.

Protobuf's own libraries build a message in memory before they write it. So the graph is serialized without its large
weights, and each is put in its place as the file is written. What comes out is what they would write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np

from tightship.errors import InvalidModel
from tightship.formats.protobuf_wire import fields, head

if TYPE_CHECKING:
    import onnx
    import onnx_ir

__all__ = ["write_stream", "write_tensor"]

_LEAST_STREAMED_BYTES = 1024
_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9
_OUTSIDE = (13, 14)
"""Fields that say where in another file data lies."""

_Piece: TypeAlias = "bytes | memoryview | onnx_ir.TensorProtocol"


def write_stream(model: onnx_ir.Model, path: Path) -> None:
    """Write a graph with all weights inside, less than 2 GiB together. Raises `InvalidModel` where one cannot be read.

    External data is read, and becomes part of the file.
    """
    large = {
        name: tensor
        for name, value in model.graph.initializers.items()
        if (tensor := value.const_value) is not None
        and tensor.dtype.name != "STRING"
        and tensor.nbytes >= _LEAST_STREAMED_BYTES
    }
    message = memoryview(_light(model, large).SerializeToString(deterministic=True))
    with path.open("wb") as file:
        for piece in _message(message, large):
            if isinstance(piece, bytes | memoryview):
                file.write(piece)
            else:
                write_tensor(piece, file)


def write_tensor(tensor: onnx_ir.TensorProtocol, file: IO[bytes]) -> None:
    """Write the bytes of a tensor, row by row and little-endian. Raises `InvalidModel` where it has fewer or more."""
    import onnx_ir

    start = file.tell()
    if isinstance(tensor, onnx_ir.ExternalTensor):
        tensor.tofile(file)
    elif tensor.dtype.bitwidth < 8 or tensor.dtype == onnx_ir.DataType.BOOL:
        file.write(tensor.tobytes())
    else:
        array = tensor.numpy()
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        file.write(array.reshape(-1).view(np.uint8).data)
    if file.tell() - start != tensor.nbytes:
        raise InvalidModel(
            f"weight {tensor.name!r}: expected {tensor.nbytes} bytes, found {file.tell() - start}; did its file change?"
        )


def _light(model: onnx_ir.Model, large: Mapping[str, onnx_ir.TensorProtocol]) -> onnx.ModelProto:
    """The graph with large weights told to lie elsewhere, and with smaller ones of external data inside."""
    import onnx_ir

    light = model.clone()
    for subgraph in light.graphs():
        for name, value in subgraph.initializers.items():
            tensor = value.const_value
            if subgraph is light.graph and name in large:
                shape = onnx_ir.Shape(tensor.shape)
                place = onnx_ir.ExternalTensor("", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
                value.const_value = place
            elif isinstance(tensor, onnx_ir.ExternalTensor):
                value.const_value = onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    proto: onnx.ModelProto = onnx_ir.to_proto(light)
    # onnx_ir describes weights a second time, in value_info, where tools that transpose one (onnxruntime.quantization)
    # then find its old shape.
    described = [info for info in proto.graph.value_info if info.name not in light.graph.initializers]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(described)
    return proto


def _message(message: memoryview, large: Mapping[str, onnx_ir.TensorProtocol]) -> Iterator[_Piece]:
    for field in fields(message, 0, len(message)):
        if field.number != _GRAPH:
            yield message[field.start : field.end]
            continue
        parts = [part for piece in _graph(message, field.begin, field.end, large) for part in piece]
        yield head(_GRAPH, sum(map(_length, parts)))
        yield from parts


def _graph(
    message: memoryview, begin: int, end: int, large: Mapping[str, onnx_ir.TensorProtocol]
) -> Iterator[list[_Piece]]:
    for part in fields(message, begin, end):
        if part.number == _INITIALIZER:
            yield _initializer(message, part.begin, part.end, large)
        else:
            yield [message[part.start : part.end]]


def _initializer(
    message: memoryview, begin: int, end: int, large: Mapping[str, onnx_ir.TensorProtocol]
) -> list[_Piece]:
    """A weight with its data in the place that the order of fields gives it."""
    parts = list(fields(message, begin, end))
    names = [bytes(message[part.begin : part.end]).decode() for part in parts if part.number == _NAME]
    tensor = large.get(names[0]) if names else None
    if tensor is None:
        return [head(_INITIALIZER, end - begin), message[begin:end]]
    before = b"".join(message[part.start : part.end] for part in parts if part.number < _RAW_DATA)
    after = b"".join(
        message[part.start : part.end] for part in parts if part.number > _RAW_DATA and part.number not in _OUTSIDE
    )
    pieces: list[_Piece] = [before, head(_RAW_DATA, tensor.nbytes), tensor, after]
    return [head(_INITIALIZER, sum(map(_length, pieces))), *pieces]


def _length(piece: _Piece) -> int:
    return len(piece) if isinstance(piece, bytes | memoryview) else int(piece.nbytes)
