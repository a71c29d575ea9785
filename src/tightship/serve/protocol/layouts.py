"""Binary requests that begin as one before them: where their tensors lie is known, and need not be found out again.

The part before the tensors names and announces them. Clients send the same one again and again, as long as shapes and
wishes stay the same and they give no id.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tightship.serve.failures import BadRequest
from tightship.serve.protocol.requests import InferRequest, read_request
from tightship.serve.protocol.signature import Signature

__all__ = ["Layouts"]

MAX_KNOWN = 256
MAX_HEAD_BYTES = 4096
MAX_DIGITS = 12


class _Place(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    aligned: bool


class _Layout(NamedTuple):
    places: tuple[_Place, ...]
    body_bytes: int
    outputs: tuple[str, ...]
    binary: frozenset[str]
    timeout_us: int
    n_elements: int


class Layouts:
    """Reads the requests for one version of a model."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._known: dict[bytes, _Layout] = {}
        self._lengths: dict[bytes, int] = {}

    def read(self, body: bytes, header_length: bytes | None) -> InferRequest:
        """Return the request; `header_length` is the header `Inference-Header-Content-Length`, if it was there.

        Raises `BadRequest`.
        """
        if header_length is None:
            return read_request(body, None, self._signature)
        length = self._lengths.get(header_length) or self._length(header_length)
        layout = self._known.get(body[:length])
        if layout is None or layout[1] != len(body):
            request = read_request(body, length, self._signature)
            self._learn(body[:length], body, request)
            return request
        places, _, outputs, binary, timeout_us, n_elements = layout
        arrays = {}
        for name, shape, dtype, offset, aligned in places:
            array = np.ndarray(shape, dtype, body, offset)
            arrays[name] = array if aligned else array.copy()
        return InferRequest(arrays, outputs, binary, "", timeout_us, n_elements)

    def _length(self, text: bytes) -> int:
        if not text.isdigit() or len(text) > MAX_DIGITS:
            raise BadRequest(f"Inference-Header-Content-Length is {text[:40]!r}, expected a count of bytes")
        if len(self._lengths) >= MAX_KNOWN:
            self._lengths.clear()
        self._lengths[text] = int(text)
        return int(text)

    def _learn(self, head: bytes, body: bytes, request: InferRequest) -> None:
        """Remember where the tensors are, where all of them are plain numbers after the head."""
        places, offset = [], len(head)
        for name, array in request.inputs.items():
            known = self._signature.inputs[name]
            if not known.itemsize or known.datatype == "BOOL":
                return
            aligned = not offset % known.itemsize  # bytes begin where every type may
            places.append(_Place(name, array.shape, known.dtype, offset, aligned))
            offset += array.nbytes
        if offset != len(body) or request.id or len(head) > MAX_HEAD_BYTES:
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[head] = _Layout(
            tuple(places), len(body), request.outputs, request.binary, request.timeout_us, request.n_elements
        )
