"""Types and constants of a program: from its protobuf messages, and from the blob file that holds its weights.

A blob file begins with 64 bytes of header. A weight is found by the offset of 64 bytes that describe it: a mark, its
type, its size, and where its data begin. Elements of fewer than 8 bits are packed, the lowest bits first.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tightship.errors import InvalidModel
from tightship.formats.mil.operands import CARRIERS, LIMITS, Type, Unsupported

__all__ = ["Weights", "array_of", "from_bits", "type_of", "unpacked"]

_MARK = 0xDEADBEEF
_DESCRIPTION = np.dtype([("mark", "<u4"), ("type", "<u4"), ("size", "<u8"), ("offset", "<u8"), ("spare", "<u8", 5)])
_STORED = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}
"""Types of a blob file, by their numbers in it (BlobDataType.hpp of coremltools)."""


class Weights:
    """The blob files of one package."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[str, np.ndarray] = {}

    def read(self, file_name: str, offset: int, kind: Type) -> np.ndarray:
        """Read one weight. Raises `InvalidModel` where the file does not hold what the program says."""
        name = PurePosixPath(file_name).name
        data = self._file(name)
        where = f"{name}: the weight at {offset}"
        if offset + _DESCRIPTION.itemsize > len(data):
            raise InvalidModel(f"{where} lies behind the end ({len(data)} bytes); the file is cut short or damaged")
        found = data[offset : offset + _DESCRIPTION.itemsize].view(_DESCRIPTION)[0]
        stored = _STORED.get(int(found["type"]))
        if int(found["mark"]) != _MARK or stored != kind.dtype:
            raise InvalidModel(f"{where}: expected a {kind.dtype}, found {stored or 'none'}; the package is damaged")
        begin, size = int(found["offset"]), int(found["size"])
        if begin + size > len(data):
            raise InvalidModel(f"{where} ends at {begin + size} of {len(data)} bytes; the file is cut short")
        return unpacked(data[begin : begin + size], kind, where)

    def _file(self, name: str) -> np.ndarray:
        if name not in self._files:
            path = self._folder / name if self._folder is not None else None
            if path is None or not path.is_file() or path.is_symlink():
                raise InvalidModel(f"the program keeps weights in {name}, which the package does not hold")
            size = path.stat().st_size
            self._files[name] = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        return self._files[name]


def type_of(message: Any) -> Type:
    """Return the type of a value; a dictionary has none. Raises `Unsupported`, and `InvalidModel` on nonsense."""
    from coremltools.proto import MIL_pb2 as mil

    which = message.WhichOneof("type")
    if which == "listType":
        element = type_of(message.listType.type)
        return Type(element.dtype, element.shape, "list")
    if which == "stateType":
        wrapped = type_of(message.stateType.wrappedType)
        return Type(wrapped.dtype, wrapped.shape, "state")
    if which == "dictionaryType":
        return Type("float64", (), "dictionary")
    tensor = message.tensorType
    name = mil.DataType.Name(tensor.dataType).lower() if tensor.dataType in mil.DataType.values() else "?"
    if name not in CARRIERS:
        raise Unsupported(f"ONNX has no element type {name}")
    if tensor.rank < 0 or tensor.rank != len(tensor.dimensions):
        raise Unsupported("a tensor whose rank is not known")
    return Type(name, tuple(map(_length, tensor.dimensions)))


def _length(dimension: Any) -> int | None:
    return int(dimension.constant.size) if dimension.WhichOneof("dimension") == "constant" else None


def array_of(message: Any, weights: Weights) -> np.ndarray:
    """Return the array of a constant in its own type. Raises `InvalidModel` where it does not fit its type."""
    if message.type.WhichOneof("type") == "listType":
        return np.array([_plain(array_of(entry, weights)) for entry in message.immediateValue.list.values])
    kind = type_of(message.type)
    if None in kind.shape or kind.kind != "tensor":
        raise Unsupported("a constant whose shape is not known")
    if message.WhichOneof("value") == "blobFileValue":
        found = message.blobFileValue
        return weights.read(found.fileName, int(found.offset), kind)
    return _immediate(message.immediateValue.tensor, kind)


def _plain(array: np.ndarray) -> Any:
    return array.item() if array.ndim == 0 else array


def _immediate(tensor: Any, kind: Type) -> np.ndarray:
    which = tensor.WhichOneof("value")
    if which is None:
        raise InvalidModel("a constant holds no values")
    values = getattr(tensor, which).values
    if isinstance(values, bytes):
        return unpacked(np.frombuffer(values, np.uint8), kind, "a constant")
    dtype = object if kind.dtype == "string" else kind.carrier if kind.dtype != "float64" else np.float64
    array = np.array(list(values), dtype)
    if array.size == 1 and _count(kind) != 1:  # a splat
        array = np.broadcast_to(array, (_count(kind),))
    return _shaped(array, kind, "a constant")


def unpacked(data: np.ndarray, kind: Type, where: str) -> np.ndarray:
    """Return the elements that bytes hold. Raises `InvalidModel` where their number is not that of the shape."""
    bits = int(kind.dtype.lstrip("uint")) if kind.dtype.lstrip("u").startswith("int") else 0
    if not bits or bits >= LIMITS["bits"]:
        dtype = np.dtype("bool" if kind.dtype == "bool" else kind.dtype)
        if data.size % dtype.itemsize:
            raise InvalidModel(f"{where}: {data.size} bytes are no {kind.dtype}")
        return _shaped(np.frombuffer(data.tobytes(), dtype), kind, where)
    count = _count(kind)
    if data.size != -(-count * bits // 8):
        raise InvalidModel(f"{where}: expected {count} elements of {bits} bits, found {data.size} bytes")
    elements = from_bits(data, bits, count)
    if kind.dtype.startswith("int"):
        elements = elements.astype(np.int8)
        elements[elements >= 1 << (bits - 1)] -= np.int8(1 << bits)
    return elements.reshape([dim or 0 for dim in kind.shape])


def from_bits(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Return `count` unsigned integers of `bits` bits, which may straddle bytes, the lowest bits first."""
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        split = (data[:, None] >> shifts) & np.uint8((1 << bits) - 1)
        return np.ascontiguousarray(split.reshape(-1)[:count])
    flat = np.unpackbits(data, bitorder="little")[: count * bits].reshape(count, bits)
    weights = (1 << np.arange(bits)).astype(np.uint8)
    packed: np.ndarray = (flat * weights).sum(1).astype(np.uint8)
    return packed


def _count(kind: Type) -> int:
    count = 1
    for dim in kind.shape:
        count *= dim or 0
    return count


def _shaped(array: np.ndarray, kind: Type, where: str) -> np.ndarray:
    if array.size != _count(kind):
        raise InvalidModel(f"{where}: expected {_count(kind)} elements of shape {list(kind.shape)}, found {array.size}")
    return array.reshape([dim or 0 for dim in kind.shape])
