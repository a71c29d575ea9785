"""Inference requests as arrays: a JSON document, or its first part with the tensors' bytes after it (zero-copy).

Nothing is converted before its name, type, shape and length were compared with what the model takes.
"""

from __future__ import annotations

from array import array
from contextlib import suppress
from functools import cache
from math import isfinite
from typing import Any

import msgspec
import numpy as np

from tightship.core.session import Arrays
from tightship.serve.failures import BadRequest
from tightship.serve.protocol.signature import Input, Signature

__all__ = ["InferRequest", "read_request"]


class InferRequest(msgspec.Struct, gc=False):
    """A request as the server understands it.

    `outputs` are the names that are wanted, all where empty; `binary` those wanted in binary form. `timeout_us` is how
    long the client waits at most, in microseconds (Triton's parameter `timeout`), or 0. `n_elements` are those of all
    inputs.
    """

    inputs: Arrays
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()
    id: str = ""
    timeout_us: int = 0
    n_elements: int = 0


class _InputParameters(msgspec.Struct):
    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class _InputTensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: _InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class _FloatTensor(msgspec.Struct):
    """A tensor whose values are flat and floats, read along with the document: as most are, and the largest."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]
    parameters: _InputParameters | None = None


class _OutputParameters(msgspec.Struct):
    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


class _OutputTensor(msgspec.Struct):
    name: str
    parameters: _OutputParameters | None = None


class _Parameters(msgspec.Struct):
    binary_data_output: bool = False
    timeout: int = 0


class _Document(msgspec.Struct):
    inputs: list[_InputTensor]
    id: str = ""
    outputs: list[_OutputTensor] | None = None
    parameters: _Parameters | None = None


class _FloatDocument(msgspec.Struct):
    inputs: list[_FloatTensor]
    id: str = ""
    outputs: list[_OutputTensor] | None = None
    parameters: _Parameters | None = None


_DOCUMENT = msgspec.json.Decoder(_Document)
_FLOAT_DOCUMENT = msgspec.json.Decoder(_FloatDocument)
_ITEMS: dict[str, type] = {"f": float, "V": float, "i": int, "u": int, "b": bool, "O": str}
"""Python's type of a tensor's elements, by the kind of numpy's dtype (V is bfloat16)."""

FEW = 1000
_DECODING = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_request(body: bytes, header_length: int | None, signature: Signature) -> InferRequest:
    """Read a request for a model; `header_length` is the value of `Inference-Header-Content-Length`, if it was there.

    Raises `BadRequest`, naming what was expected and found.
    """
    document: _Document | _FloatDocument
    if header_length is None:
        document, place = _decode_all(body, signature), len(body)
    elif 0 <= header_length <= len(body):
        document, place = _decode(body[:header_length]), header_length
    else:
        raise BadRequest(
            f"Inference-Header-Content-Length is {header_length}, and the body has {len(body)} bytes: expected no more"
        )
    arrays: Arrays = {}
    content = memoryview(body)
    for tensor in document.inputs:
        known = signature.input(tensor.name)
        if tensor.name in arrays:
            raise BadRequest(f"input {tensor.name!r} is there twice")
        size = _binary_size(tensor)
        if size is None:
            arrays[tensor.name] = _from_json(known, tensor)
        else:
            if size > len(body) - place:
                raise BadRequest(f"input {tensor.name!r}: {size} bytes are announced, {len(body) - place} are left")
            arrays[tensor.name] = known.from_raw(tensor.datatype, tensor.shape, content[place : place + size])
            place += size
    if place != len(body):
        raise BadRequest(f"{len(body) - place} bytes after the last tensor; each is announced by binary_data_size")
    signature.check_complete(arrays)
    return _request(document, arrays, signature)


def _decode_all(body: bytes, signature: Signature) -> _Document | _FloatDocument:
    if signature.floats:
        with suppress(*_DECODING):  # nested values, for instance
            return _FLOAT_DOCUMENT.decode(body)
    return _decode(body)


def _decode(head: bytes) -> _Document:
    try:
        return _DOCUMENT.decode(head)
    except _DECODING as error:
        raise BadRequest(
            f"the request is not the JSON that the inference protocol asks for: {_short(error)}"
        ) from error


def _request(document: _Document | _FloatDocument, arrays: Arrays, signature: Signature) -> InferRequest:
    parameters = document.parameters
    if parameters is None and document.outputs is None:
        return InferRequest(arrays, id=document.id, n_elements=_count(arrays))
    all_binary = parameters is not None and parameters.binary_data_output
    timeout_us = 0 if parameters is None else parameters.timeout
    names, binary = [], []
    for wanted in document.outputs or ():
        signature.check_output(wanted.name)
        names.append(wanted.name)
        if _wants_binary(wanted, all_binary):
            binary.append(wanted.name)
    if all_binary and not names:
        binary = list(signature.outputs)
    timeout_us = max(0, timeout_us)
    return InferRequest(arrays, tuple(names), frozenset(binary), document.id, timeout_us, _count(arrays))


def _count(arrays: Arrays) -> int:
    n_elements = 0
    for found in arrays.values():
        n_elements += found.size
    return n_elements


def _wants_binary(wanted: _OutputTensor, otherwise: bool) -> bool:
    parameters = wanted.parameters
    if parameters is None:
        return otherwise
    if parameters.classification or parameters.shared_memory_region is not None:
        raise BadRequest(f"output {wanted.name!r}: classification and shared memory are not offered here")
    return otherwise if parameters.binary_data is None else parameters.binary_data


def _binary_size(tensor: _InputTensor | _FloatTensor) -> int | None:
    """Bytes of the tensor after the document, or None where its data is in it."""
    parameters = tensor.parameters
    if parameters is not None and parameters.shared_memory_region is not None:
        raise BadRequest(f"input {tensor.name!r}: shared memory is not offered here")
    size = None if parameters is None else parameters.binary_data_size
    given = isinstance(tensor, _FloatTensor) or bool(tensor.data)
    if (size is None) != given:
        found = "both" if size is not None else "neither"
        raise BadRequest(
            f"input {tensor.name!r}: expected either data or the parameter binary_data_size, found {found}"
        )
    if size is not None and size < 0:
        raise BadRequest(f"input {tensor.name!r}: binary_data_size is {size}")
    return size


def _from_json(known: Input, tensor: _InputTensor | _FloatTensor) -> np.ndarray:
    """Take values from JSON, flat in row-major order or nested as the shape is."""
    count = known.count(tensor.datatype, tensor.shape)
    try:
        values = tensor.data if isinstance(tensor, _FloatTensor) else _flat_values(known, tensor)
    except _DECODING as error:
        raise BadRequest(
            f"input {known.name!r}: data must be a list of {known.datatype}, flat or nested as shape {tensor.shape}: "
            f"{_short(error)}"
        ) from error
    if len(values) != count:
        raise BadRequest(f"input {known.name!r}: expected {count} values for shape {tensor.shape}, found {len(values)}")
    return _array(known, values).reshape(tensor.shape)


def _array(known: Input, values: list[Any]) -> np.ndarray:
    """Return values as the model's type. Raises `BadRequest` for one that does not fit it."""
    dtype = known.dtype
    if dtype.char in "fd":
        packed = array(dtype.char, values)
        found: np.ndarray = np.frombuffer(packed, dtype.char)
        # JSON has finite numbers alone: one that is not was too large. A sum of few is the quicker way to see it.
        few = len(values) <= FEW and isfinite(sum(packed))
        if not few and not np.isfinite(found).all():
            raise BadRequest(f"input {known.name!r}: a value does not fit {known.datatype}")
        return found
    try:
        with np.errstate(over="raise"):
            return np.array(values, dtype)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise BadRequest(f"input {known.name!r}: a value does not fit {known.datatype}: {_short(error)}") from error


def _flat_values(known: Input, tensor: _InputTensor) -> list[Any]:
    try:
        values: list[Any] = _nested_decoder(known.dtype.kind, 1).decode(tensor.data)
        return values
    except msgspec.ValidationError:
        if len(tensor.shape) == 1:
            raise
        return _flattened(known, tensor)


def _flattened(known: Input, tensor: _InputTensor) -> list[Any]:
    """Flatten nested lists, whose lengths must be those of the shape; the one value of a scalar may stand by itself."""
    level: list[Any] = [_nested_decoder(known.dtype.kind, len(tensor.shape)).decode(tensor.data)]
    for length in tensor.shape:
        if any(len(row) != length for row in level):
            raise BadRequest(f"input {known.name!r}: nested data must be nested as the shape {tensor.shape} says")
        level = [value for row in level for value in row]
    return level


@cache
def _nested_decoder(kind: str, rank: int) -> msgspec.json.Decoder[Any]:
    wanted: Any = _ITEMS[kind]
    for _ in range(rank):
        wanted = list[wanted]
    return msgspec.json.Decoder(wanted)


def _short(error: Exception) -> str:
    return str(error)[:200]
