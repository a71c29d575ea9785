"""ONNX models that lie in memory: weights are used where they are, so that a model is not in memory twice.

Protobuf would copy every weight while parsing. So large weights are cut out of the message first, by its wire format,
and the small rest is parsed as usual. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tightship.core import graph
from tightship.core.model import Model
from tightship.errors import InvalidModel, TightshipError
from tightship.formats.onnx_structure import all_nodes, check_structure, run_checker, subgraphs
from tightship.formats.onnx_tensors import check_tensors, check_values
from tightship.formats.protobuf_wire import Field, delimited, fields

if TYPE_CHECKING:
    import onnx

__all__ = ["read_memory"]

LEAST_CUT_BYTES = 1024

_GRAPH, _INITIALIZER, _NAME, _RAW_DATA, _DATA_TYPE = 7, 5, 8, 9, 2
_DTYPES = {
    1: "<f4",
    2: "u1",
    3: "i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}
"""Element types of ONNX that numpy has itself; weights of others stay in the message."""


def read_memory(content: memoryview, files: Mapping[str, memoryview], thorough: bool = True) -> Model:
    """Read a model from its bytes and, by their location, those of its external data.

    The model keeps looking at this memory, and the content is not what it was: where it is writable, weights are moved
    in it by a few bytes, to where their type may lie. `thorough` checks all that reading a file does; without it only
    that weights have the length they should.
    Raises `InvalidModel`, `UnsupportedError` or `UnsupportedOperators`.
    """
    import onnx
    import onnx_ir

    try:
        light, weights = _cut(content)
        proto = onnx.load_model_from_string(light)
        weights |= _external(proto, files)
        if thorough:
            _check(proto, weights)
        model = onnx_ir.from_proto(proto)
        for tensor in proto.graph.initializer:
            if tensor.name in weights:
                array = _array(tensor, weights[tensor.name])
                model.graph.initializers[tensor.name].const_value = onnx_ir.Tensor(array, name=tensor.name)
        if thorough:
            check_values(model)
        return graph.from_ir(model)
    except TightshipError:
        raise
    except Exception as error:  # protobuf, onnx and onnx_ir raise many types on hostile bytes
        raise InvalidModel(f"not a sound ONNX model: {error}") from error


def _check(proto: onnx.ModelProto, weights: Mapping[str, memoryview]) -> None:
    import onnx

    check_structure(proto)
    inside = onnx.ModelProto()
    inside.CopyFrom(proto)
    del inside.graph.initializer[:]
    inside.graph.initializer.extend(tensor for tensor in proto.graph.initializer if tensor.name not in weights)
    check_tensors(inside, Path())
    run_checker(proto)


def _cut(content: memoryview) -> tuple[bytes, dict[str, memoryview]]:
    """Return the message without its large weights, and those by name."""
    light, weights = bytearray(), {}
    for field in fields(content, 0, len(content)):
        if field.number != _GRAPH:
            light += content[field.start : field.end]
            continue
        body = bytearray()
        for part in fields(content, field.begin, field.end):
            name, rest, data = _without_data(content, part)
            body += rest
            if data is not None:
                weights[name] = data
        light += delimited(_GRAPH, body)
    return bytes(light), weights


def _without_data(content: memoryview, part: Field) -> tuple[str, bytes | memoryview, memoryview | None]:
    """Return a tensor's name, the tensor without its data, and the data; a field that is none comes back as it is."""
    whole = content[part.start : part.end]
    if part.number != _INITIALIZER or part.end - part.begin < LEAST_CUT_BYTES:
        return "", whole, None
    parts = list(fields(content, part.begin, part.end))
    data = [field for field in parts if field.number == _RAW_DATA]
    names = [field for field in parts if field.number == _NAME]
    types = [field.value for field in parts if field.number == _DATA_TYPE]
    if len(data) != 1 or len(names) != 1 or len(types) != 1 or types[0] not in _DTYPES:
        return "", whole, None
    rest = b"".join(content[field.start : field.end] for field in parts if field is not data[0])
    name = bytes(content[names[0].begin : names[0].end]).decode()
    itemsize = np.dtype(_DTYPES[types[0]]).itemsize
    return name, delimited(_INITIALIZER, rest), _aligned(content, data[0], part.start, itemsize)


def _aligned(content: memoryview, data: Field, room_from: int, itemsize: int) -> memoryview:
    """Move data down to a multiple of its item's size, over fields that were read already; else copy it."""
    address = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    shift = (address + data.begin) % itemsize
    begin, end = data.begin - shift, data.end - shift
    if not shift:
        return content[begin:end]
    if begin < room_from or content.readonly:
        return memoryview(bytearray(content[data.begin : data.end]))
    content[begin:end] = content[data.begin : data.end]
    return content[begin:end]


def _external(proto: onnx.ModelProto, files: Mapping[str, memoryview]) -> dict[str, memoryview]:
    """Return external weights of the main graph by name; those of other types and graphs are put into the message."""
    import onnx

    found = {}
    for depth, tensor in _initializers(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        data = _extent(tensor, files)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
        aligned = tensor.data_type in _DTYPES and not _address(data) % np.dtype(_DTYPES[tensor.data_type]).itemsize
        if depth or not aligned:
            tensor.raw_data = bytes(data)
        else:
            found[tensor.name] = data
    return found


def _initializers(body: onnx.GraphProto, depth: int = 0) -> Iterator[tuple[int, onnx.TensorProto]]:
    yield from ((depth, tensor) for tensor in body.initializer)
    for node in all_nodes(body.node) if not depth else ():
        for inner in subgraphs(node):
            yield from _initializers(inner, depth + 1)


def _extent(tensor: onnx.TensorProto, files: Mapping[str, memoryview]) -> memoryview:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location not in files:
        raise InvalidModel(f"tensor {tensor.name!r} lies in {location!r}, which is not among the model's files")
    numbers = [entries[key] for key in ("offset", "length") if key in entries]
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers):
        raise InvalidModel(f"tensor {tensor.name!r}: offset and length must be counts, found {numbers}")
    whole = files[location]
    offset = int(entries.get("offset", 0))
    end = offset + int(entries["length"]) if "length" in entries else len(whole)
    if not offset <= end <= len(whole):
        raise InvalidModel(f"tensor {tensor.name!r} lies at {offset} to {end} of {location!r}, which has {len(whole)}")
    return whole[offset:end]


def _array(tensor: onnx.TensorProto, data: memoryview) -> np.ndarray:
    dtype = np.dtype(_DTYPES[tensor.data_type])
    dims = tuple(tensor.dims)
    if any(dim < 0 for dim in dims) or math.prod(dims) * dtype.itemsize != len(data):
        raise InvalidModel(f"tensor {tensor.name!r} of {list(dims)} {dtype.name} has {len(data)} bytes of data")
    return np.frombuffer(data, dtype).reshape(dims)


def _address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).__array_interface__["data"][0]) if len(data) else 0
