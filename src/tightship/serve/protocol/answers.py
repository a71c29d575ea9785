"""Outputs as an answer: a JSON document, or its first part with the bytes of the tensors after it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from tightship.core.session import Arrays
from tightship.serve.protocol.datatypes import numpy_dtype, pack_bytes
from tightship.serve.protocol.requests import InferRequest
from tightship.serve.protocol.signature import Signature

__all__ = ["Answers", "Headers", "json_headers"]

Headers = tuple[tuple[bytes, bytes], ...]

MAX_KNOWN = 256
JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")


class Answers:
    """Writes the answers of one version of a model. What is the same in all of them is written once."""

    def __init__(self, model: str, version: str, signature: Signature) -> None:
        names = msgspec.json.encode({"model_name": model, "model_version": version})
        self._begin = names[:-1] + b',"outputs":['
        self._begin_with_id = names[:-1].replace(b"%", b"%%") + b',"id":%b,"outputs":['
        self._signature = signature
        self._all = tuple(signature.outputs)
        self._heads: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._documents: dict[tuple[Any, ...], tuple[bytes, Headers]] = {}
        numbers = all(datatype not in ("BYTES", "BF16") for datatype in signature.output_datatypes.values())
        self._as_they_are = numbers and sys.byteorder == "little"

    def write(self, request: InferRequest, outputs: Arrays) -> tuple[bytes, Headers]:
        """Return the body and its headers."""
        names = request.outputs or self._all
        if self._as_they_are and len(request.binary) == len(names) and not request.id:
            return self._numbers(names, [outputs[name] for name in names])
        begin = self._begin_with_id % msgspec.json.encode(request.id) if request.id else self._begin
        tensors: list[bytes] = []
        contents: list[bytes] = []
        for name in names:
            array = outputs[name]
            head = self._head(name, array.shape)
            if name in request.binary:
                contents.append(self._content(name, array))
                tensors.append(b'%b,"parameters":{"binary_data_size":%d}}' % (head, len(contents[-1])))
            else:
                tensors.append(b'%b,"data":%b}' % (head, _values(array)))
        document = b"%b%b]}" % (begin, b",".join(tensors))
        if not contents:
            return document, json_headers(document)
        body = b"".join((document, *contents))
        return body, _binary_headers(len(document), len(body))

    def _numbers(self, names: Sequence[str], arrays: list[np.ndarray]) -> tuple[bytes, Headers]:
        """Write an answer that is all binary, and whose document is the same as long as names and shapes are."""
        key = (names, *[array.shape for array in arrays])
        known = self._documents.get(key) or self._document(key, names, arrays)
        plain: list[Any] = [array if array.flags.c_contiguous else np.ascontiguousarray(array) for array in arrays]
        return b"".join((known[0], *plain)), known[1]

    def _document(self, key: tuple[Any, ...], names: Sequence[str], arrays: list[np.ndarray]) -> tuple[bytes, Headers]:
        sized = b'%b,"parameters":{"binary_data_size":%d}}'
        pairs = zip(names, arrays, strict=True)
        tensors = [sized % (self._head(name, array.shape), array.nbytes) for name, array in pairs]
        document = b"%b%b]}" % (self._begin, b",".join(tensors))
        if len(self._documents) >= MAX_KNOWN:
            self._documents.clear()
        known = document, _binary_headers(len(document), len(document) + sum(array.nbytes for array in arrays))
        self._documents[key] = known
        return known

    def _head(self, name: str, shape: tuple[int, ...]) -> bytes:
        head = self._heads.get((name, shape))
        if head is None:
            datatype = self._signature.output_datatypes[name]
            head = msgspec.json.encode({"name": name, "datatype": datatype, "shape": list(shape)})[:-1]
            if len(self._heads) >= MAX_KNOWN:
                self._heads.clear()
            self._heads[name, shape] = head
        return head

    def _content(self, name: str, array: np.ndarray) -> bytes:
        if self._signature.output_datatypes[name] == "BYTES":
            return pack_bytes(array)
        return array.astype(numpy_dtype(self._signature.outputs[name].dtype), copy=False).tobytes()


def json_headers(body: bytes) -> Headers:
    """Return the headers of an answer that is JSON; the same ones for the same length."""
    return _json_headers(len(body))


@lru_cache(MAX_KNOWN)
def _json_headers(length: int) -> Headers:
    return (JSON, (b"content-length", b"%d" % length))


def _binary_headers(json_bytes: int, body_bytes: int) -> Headers:
    length = (b"inference-header-content-length", b"%d" % json_bytes)
    return (BINARY, (b"content-length", b"%d" % body_bytes), length)


def _values(array: np.ndarray) -> bytes:
    """Return the elements as a flat JSON list; what is no finite number is null, since JSON has no word for it."""
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    values = array.ravel().tolist()
    if array.dtype.kind in "OSU":
        values = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values]
    return msgspec.json.encode(values)
