"""Tensors of the protocol's gRPC messages to arrays and back: raw bytes without a copy, or lists of numbers.

An answer comes in the form in which the request came, but that FP16 and BF16, for which there are no lists, are raw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tightship.core.session import Arrays
from tightship.serve.failures import BadRequest
from tightship.serve.grpc_service.messages import message
from tightship.serve.protocol.datatypes import numpy_dtype, pack_bytes
from tightship.serve.protocol.requests import InferRequest
from tightship.serve.protocol.signature import Input, Signature

__all__ = ["read_request", "write_answer"]

CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field that holds a datatype's elements."""


def read_request(request: Any, signature: Signature) -> InferRequest:
    """Read a `ModelInferRequest` for a model. Raises `BadRequest`, naming what was expected and found."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(
            f"{len(request.inputs)} inputs and {len(raw)} raw_input_contents: expected one for each, or none"
        )
    arrays: Arrays = {}
    for place, tensor in enumerate(request.inputs):
        known = signature.input(tensor.name)
        if tensor.name in arrays:
            raise BadRequest(f"input {tensor.name!r} is there twice")
        if "shared_memory_region" in tensor.parameters:
            raise BadRequest(f"input {tensor.name!r}: shared memory is not offered here")
        if raw:
            arrays[tensor.name] = known.from_raw(tensor.datatype, tensor.shape, raw[place])
        else:
            arrays[tensor.name] = _from_contents(known, tensor)
    signature.check_complete(arrays)
    names = _outputs(request, signature)
    timeout = request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0
    binary = frozenset(names or signature.outputs) if raw else frozenset()
    return InferRequest(arrays, names, binary, request.id, max(0, timeout))


def write_answer(model: str, version: str, request: InferRequest, outputs: Arrays, signature: Signature) -> Any:
    """Return the `ModelInferResponse` with what was asked for."""
    answer = message("ModelInferResponse")(model_name=model, model_version=version, id=request.id)
    names = request.outputs or tuple(signature.outputs)
    datatypes = signature.output_datatypes
    raw = bool(request.binary) or any(datatypes[name] not in CONTENTS for name in names)
    for name in names:
        array = outputs[name]
        tensor = answer.outputs.add(name=name, datatype=datatypes[name], shape=array.shape)
        if raw:
            answer.raw_output_contents.append(_raw(array, datatypes[name], signature.outputs[name].dtype))
        else:
            getattr(tensor.contents, CONTENTS[datatypes[name]]).extend(_elements(array, datatypes[name]))
    return answer


def _outputs(request: Any, signature: Signature) -> tuple[str, ...]:
    names = []
    for wanted in request.outputs:
        signature.check_output(wanted.name)
        if {"classification", "shared_memory_region"} & set(wanted.parameters):
            raise BadRequest(f"output {wanted.name!r}: classification and shared memory are not offered here")
        names.append(wanted.name)
    return tuple(names)


def _from_contents(known: Input, tensor: Any) -> np.ndarray:
    count = known.count(tensor.datatype, tensor.shape)
    field = CONTENTS.get(known.datatype)
    if field is None:
        raise BadRequest(
            f"input {known.name!r}: {known.datatype} has no list of elements; send it in raw_input_contents"
        )
    strangers = [found.name for found, _ in tensor.contents.ListFields() if found.name != field]
    if strangers:
        raise BadRequest(f"input {known.name!r}: {known.datatype} is sent in {field}, found {', '.join(strangers)}")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        shape = list(tensor.shape)
        raise BadRequest(f"input {known.name!r}: expected {count} elements for shape {shape}, found {len(values)}")
    return _array(known, list(values)).reshape(tensor.shape)


def _array(known: Input, values: list[Any]) -> np.ndarray:
    if known.datatype == "BYTES":
        try:
            return np.array([value.decode() for value in values], dtype=object)
        except UnicodeDecodeError as error:
            raise BadRequest(f"input {known.name!r}: texts are UTF-8; found something else: {error.reason}") from error
    if known.dtype.kind not in "iu":
        return np.array(values, known.dtype)
    # A field of 32 bits carries the smaller types too, so that a value may be too large for its own.
    wide = np.array(values, np.uint64 if known.dtype.kind == "u" else np.int64)
    array = wide.astype(known.dtype)
    if not np.array_equal(array, wide):
        raise BadRequest(f"input {known.name!r}: {values[int(np.argmax(array != wide))]} does not fit {known.datatype}")
    return array


def _raw(array: np.ndarray, datatype: str, dtype: str) -> bytes:
    if datatype == "BYTES":
        return pack_bytes(array)
    return np.asarray(array, numpy_dtype(dtype)).tobytes()


def _elements(array: np.ndarray, datatype: str) -> Sequence[Any]:
    values: list[Any] = array.ravel().tolist()
    if datatype == "BYTES":
        return [value if isinstance(value, bytes) else str(value).encode() for value in values]
    return values
