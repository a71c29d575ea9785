"""The protocol's data types and numpy's; and elements of BYTES: four bytes of length, little-endian, then itself."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tightship.errors import UnsupportedError
from tightship.serve.failures import BadRequest

__all__ = ["bytes_elements", "datatype_of", "numpy_dtype", "pack_bytes"]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    "str": "BYTES",
}

_LENGTH = struct.Struct("<I")


def datatype_of(dtype: str) -> str:
    """Return the protocol's name of a `TensorSpec`'s dtype. Raises `UnsupportedError` where it has none."""
    if dtype not in DATATYPES:
        raise UnsupportedError(f"the inference protocol has no tensors of {dtype}; it has {', '.join(DATATYPES)}")
    return DATATYPES[dtype]


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return numpy's dtype, little-endian; BYTES are objects."""
    if dtype == "str":
        return np.dtype(object)
    if dtype == "bfloat16":
        import ml_dtypes

        wanted: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return wanted
    return np.dtype(dtype).newbyteorder("<")


def bytes_elements(data: memoryview, count: int, name: str) -> list[str]:
    """Split the content of a BYTES tensor into its `count` texts. Raises `BadRequest` where it is anything else."""
    if 4 * count > len(data):
        raise BadRequest(f"input {name!r}: {count} elements of BYTES do not fit into {len(data)} bytes")
    elements, place = [], 0
    for _ in range(count):
        if place + 4 > len(data):
            raise BadRequest(f"input {name!r}: the length of an element is cut off at byte {place}")
        (length,) = _LENGTH.unpack_from(data, place)
        place += 4
        if place + length > len(data):
            raise BadRequest(f"input {name!r}: an element of {length} bytes at {place} goes past the end")
        elements.append(_text(bytes(data[place : place + length]), name))
        place += length
    if place != len(data):
        raise BadRequest(f"input {name!r}: {len(data) - place} bytes after the last of {count} elements")
    return elements


def pack_bytes(array: np.ndarray) -> bytes:
    """Return the binary content of a tensor of texts."""
    parts: list[bytes] = []
    for element in array.ravel():
        data = element if isinstance(element, bytes) else str(element).encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"input {name!r}: texts are UTF-8; found something else: {error.reason}") from error
