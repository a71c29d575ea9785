"""JSON that keeps every bit: base64 of each tensor's bytes, or numbers where a tensor is small and they are exact.

    {"format": "tightship-weights", "version": 1, "tensors": {
    "bias": {"dtype": "float32", "shape": [2], "values": [0.5, -1.25]},
    "weight": {"dtype": "bfloat16", "shape": [512, 512], "data": "q83v..."}
    }}

The grammar is fixed, so a file is checked in one pass without being built in memory, and tensors are found by position.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import mmap
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from tightship.errors import InvalidModel
from tightship.weights.container import Container, parse_json
from tightship.weights.dtypes import DTYPES, STRING
from tightship.weights.tensors import MAX_TENSORS, Data, Tensor, TensorType, Weights, join_strings

__all__ = ["Json"]

_FORMAT, _VERSION = "tightship-weights", 1
_READABLE_ELEMENTS = 16
_EXACT_INTEGER = 2**53
"""Beyond it readers that know floats only would round."""

_BLOCK_CHARACTERS = 2**22
_MAX_SHORT_BYTES = 2**16

_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\.)*+"')
_BASE64 = re.compile(rb'"([A-Za-z0-9+/]*+={0,2}+)"')
_INTEGER = re.compile(rb"(?:0|-?[1-9][0-9]{0,19}+)")
_FLAT_LIST = re.compile(rb'\[(?:[^\[\]{}"]|"(?:[^"\\\x00-\x1f]|\\.)*+")*+\]')


@dataclass(frozen=True)
class Json(Container):
    """Streamed both ways."""

    name: ClassVar[str] = "json"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    def read(self, path: Path, trusted: Sequence[str], stack: ExitStack) -> Weights:
        if not path.stat().st_size:
            raise InvalidModel("the file is empty")
        file = stack.enter_context(path.open("rb"))
        content = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        entries = _Scanner(content).document()
        return Weights({name: entry.type for name, entry in entries.items()}, lambda name: entries[name].load(content))

    def write(self, weights: Weights, path: Path) -> None:
        with path.open("wb") as file:
            file.write(f'{{"format": "{_FORMAT}", "version": {_VERSION}, "tensors": {{'.encode())
            for index, name in enumerate(weights):
                file.write(b",\n" if index else b"\n")
                _write_tensor(name, weights[name], file)
            file.write(b"\n}}\n")


@dataclass(frozen=True)
class _Entry:
    """Where a tensor's base64 lies in the file, or what its numbers are."""

    type: TensorType
    extent: tuple[int, int]
    values: Data | None = None

    def load(self, content: mmap.mmap) -> Data:
        if self.values is not None:
            return self.values
        found, position = bytearray(self.type.n_bytes), 0
        start, end = self.extent
        for block in range(start, end, _BLOCK_CHARACTERS):
            piece = binascii.a2b_base64(content[block : min(end, block + _BLOCK_CHARACTERS)], strict_mode=True)
            found[position : position + len(piece)] = piece
            position += len(piece)
        return found


def _write_tensor(name: str, tensor: Tensor, file: IO[bytes]) -> None:
    kind = tensor.type
    head = f'{json.dumps(name)}: {{"dtype": "{kind.dtype}", "shape": {json.dumps(kind.shape)}'
    values = _readable(tensor)
    if values is not None:
        file.write(f'{head}, "values": {json.dumps(values, allow_nan=False)}}}'.encode())
        return
    file.write(f'{head}, "data": "'.encode())
    data, step = memoryview(tensor.data), _BLOCK_CHARACTERS // 4 * 3
    for start in range(0, len(data), step):
        file.write(base64.b64encode(data[start : start + step]))
    file.write(b'"}')


def _readable(tensor: Tensor) -> list[Any] | None:
    """The elements as JSON values, where they are few and every reader gets them exactly."""
    kind = tensor.type
    if not 0 < kind.n_elements <= _READABLE_ELEMENTS or kind.n_bytes > _MAX_SHORT_BYTES // 8:
        return None
    if kind.dtype == STRING:
        return _texts(tensor.strings())
    if not DTYPES[kind.dtype].native or kind.dtype.startswith("complex"):
        return None
    values: list[Any] = tensor.array().reshape(-1).tolist()
    exact = all(math.isfinite(value) and (isinstance(value, float) or abs(value) <= _EXACT_INTEGER) for value in values)
    return values if exact else None


def _texts(parts: list[bytes]) -> list[str] | None:
    try:
        return [part.decode() for part in parts]
    except UnicodeDecodeError:
        return None


class _Scanner:
    """Reads the grammar above from the beginning to the end; every failure says at which byte."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._position = 0

    def document(self) -> dict[str, _Entry]:
        self._take(b"{")
        for key, wanted in (("format", json.dumps(_FORMAT)), ("version", str(_VERSION))):
            self._key(key)
            self._take(wanted.encode())
            self._take(b",")
        self._key("tensors")
        entries = self._tensors()
        self._take(b"}")
        self._space()
        if self._position != len(self._content):
            raise self._unexpected("the end of the file")
        return entries

    def _tensors(self) -> dict[str, _Entry]:
        entries: dict[str, _Entry] = {}
        self._take(b"{")
        if self._next(b"}"):
            return entries
        while True:
            name = self._string()
            if name in entries:
                raise InvalidModel(f"not sound JSON: tensor {name[:80]!r} comes twice")
            if len(entries) >= MAX_TENSORS:
                raise InvalidModel(f"more than {MAX_TENSORS} tensors")
            self._take(b":")
            try:
                entries[name] = self._entry()
            except InvalidModel as error:
                raise InvalidModel(f"tensor {name[:80]!r}: {error}") from error
            if self._next(b"}"):
                return entries
            self._take(b",")

    def _entry(self) -> _Entry:
        self._take(b"{")
        self._key("dtype")
        dtype = self._string()
        self._take(b",")
        self._key("shape")
        shape = self._shape()
        self._take(b",")
        kind = self._string()
        self._take(b":")
        if kind == "data":
            entry = self._data(dtype, shape)
        elif kind == "values":
            entry = self._values(dtype, shape)
        else:
            raise self._unexpected('"data" or "values"')
        self._take(b"}")
        return entry

    def _data(self, dtype: str, shape: list[int]) -> _Entry:
        start, end = self._match(_BASE64, "base64").span(1)
        if (end - start) % 4:
            raise InvalidModel("its base64 is cut short")
        padding = self._content[max(start, end - 2) : end].count(b"=")
        return _Entry(TensorType.of(dtype, shape, (end - start) // 4 * 3 - padding), (start, end))

    def _values(self, dtype: str, shape: list[int]) -> _Entry:
        start = self._position
        values = parse_json(self._short(self._match(_FLAT_LIST, "a list of numbers or texts")))
        kind = TensorType.of(dtype, shape)
        if kind.n_elements != len(values):
            raise InvalidModel(f"{dtype}{shape} needs {kind.n_elements} values, found {len(values)} at byte {start}")
        tensor = _tensor_of(values, kind)
        return _Entry(tensor.type, (0, 0), tensor.data)

    def _shape(self) -> list[int]:
        self._take(b"[")
        dims: list[int] = []
        if self._next(b"]"):
            return dims
        while True:
            dims.append(int(self._short(self._match(_INTEGER, "a dimension"))))
            if self._next(b"]"):
                return dims
            self._take(b",")

    def _string(self) -> str:
        text = parse_json(self._short(self._match(_STRING, "a text")))
        assert isinstance(text, str)
        return text

    def _key(self, name: str) -> None:
        self._take(json.dumps(name).encode())
        self._take(b":")

    def _match(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        self._space()
        found = pattern.match(self._content, self._position)
        if found is None:
            raise self._unexpected(what)
        self._position = found.end()
        return found

    def _short(self, found: re.Match[bytes]) -> bytes:
        if found.end() - found.start() > _MAX_SHORT_BYTES:
            raise InvalidModel(f"not weights as tightship writes them: {found.end() - found.start()} bytes of one text")
        return found.group()

    def _next(self, token: bytes) -> bool:
        self._space()
        if self._content[self._position : self._position + 1] != token:
            return False
        self._position += 1
        return True

    def _take(self, token: bytes) -> None:
        self._space()
        if self._content[self._position : self._position + len(token)] != token:
            raise self._unexpected(token.decode())
        self._position += len(token)

    def _space(self) -> None:
        found = _SPACE.match(self._content, self._position)
        assert found is not None
        self._position = found.end()

    def _unexpected(self, wanted: str) -> InvalidModel:
        found = self._content[self._position : self._position + 20]
        return InvalidModel(
            f"not weights as tightship writes them in JSON: at byte {self._position} expected {wanted}, "
            f"found {found.decode(errors='replace')!r}"
        )


def _tensor_of(values: list[Any], kind: TensorType) -> Tensor:
    if kind.dtype == STRING:
        if not all(isinstance(value, str) for value in values):
            raise InvalidModel("values of a string tensor must be texts")
        return join_strings(values, kind.shape)
    wanted: tuple[type, ...] = (int, float) if kind.dtype.startswith("float") else (int,)
    wanted = (bool,) if kind.dtype == "bool" else wanted
    if not DTYPES[kind.dtype].native or not all(type(value) in wanted for value in values):
        raise InvalidModel(f"values of {kind.dtype} must be {' or '.join(each.__name__ for each in wanted)}")
    if not all(math.isfinite(value) for value in values):  # 1e999 is written as a number, and read as infinity
        raise InvalidModel(f"a value does not fit {kind.dtype}")
    with np.errstate(over="raise"):
        try:
            array = np.array(values, DTYPES[kind.dtype].numpy).reshape(kind.shape)
        except (OverflowError, FloatingPointError) as error:
            raise InvalidModel(f"a value does not fit {kind.dtype}") from error
    return Tensor.from_array(array)
