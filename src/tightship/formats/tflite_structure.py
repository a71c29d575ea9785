"""The outline of a TFLite file, read with every offset checked before any parser written in C++ sees the file.

The file is a FlatBuffer (https://flatbuffers.dev/internals): tables find their fields through offsets in the file.
Numbers of fields are those of TensorFlow Lite's `schema.fbs`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tightship.errors import InvalidModel

__all__ = ["IDENTIFIER", "Outline", "outline"]

IDENTIFIER = b"TFL3"

_CUSTOM = 32
"""The builtin code that stands for a custom operator."""

_ELEMENT_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 8: 8, 9: 1, 10: 8, 11: 16, 12: 8, 15: 4, 16: 2, 18: 2}
"""By TensorType; texts, resources and types of less than a byte are not measured."""

_PREFERRED_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Outline:
    """What has to be known of a file before it is parsed.

    `inputs` and `outputs` are the names of the main subgraph's tensors in their order; `signature_names` gives each
    the name under which the file's signature offers it. `misplaced_axes` are the positions of quantization axes that
    a vector cannot have: old converters wrote the axis of the weight into the bias.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    signature_names: Mapping[str, str]
    custom_operators: tuple[str, ...]
    misplaced_axes: tuple[int, ...]

    def repaired(self, data: bytes) -> bytes:
        """Return the file with the axis of each vector set to the only one that it has."""
        fixed = bytearray(data)
        for position in self.misplaced_axes:
            fixed[position : position + 4] = bytes(4)
        return bytes(fixed)


def outline(data: bytes) -> Outline:
    """Check the structure of a file and return its outline.

    Raises `InvalidModel` where the bytes are no TFLite model, an offset or index leads outside, or a constant is
    shorter than its shape says.
    """
    if not data:
        raise InvalidModel("the file is empty")
    if data[4:8] != IDENTIFIER:
        raise InvalidModel(f"expected a TFLite model, with {IDENTIFIER!r} at byte 4, found {bytes(data[4:8])!r}")
    root = _Table(data, _number(data, "<I", 0))
    buffers = [_buffer_bytes(table) for table in root.tables(4)]
    codes = root.tables(1)
    subgraphs = [_subgraph(table, buffers, len(codes)) for table in root.tables(2)]
    if not subgraphs:
        raise InvalidModel("it holds no subgraph, so there is nothing to run")
    main = subgraphs[0]
    return Outline(
        tuple(main.names[index] for index in main.inputs),
        tuple(main.names[index] for index in main.outputs),
        _signature_names(root, main),
        tuple(sorted({code.text(1) for code in codes if _CUSTOM in (code.byte(0), code.integer(3))})),
        tuple(position for subgraph in subgraphs for position in subgraph.misplaced_axes),
    )


@dataclass(frozen=True)
class _Subgraph:
    names: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    misplaced_axes: tuple[int, ...]


class _Table:
    """A FlatBuffer table; every read is checked against the length of the file."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._vtable = position - _number(data, "<i", position)
        self._vtable_bytes = _number(data, "<H", self._vtable)

    def position(self, field: int) -> int:
        """Where the value of a field lies, or 0 where the field has its default."""
        entry = 4 + 2 * field
        offset = _number(self._data, "<H", self._vtable + entry) if entry + 2 <= self._vtable_bytes else 0
        return self._position + offset if offset else 0

    def integer(self, field: int) -> int:
        position = self.position(field)
        return _number(self._data, "<i", position) if position else 0

    def byte(self, field: int) -> int:
        position = self.position(field)
        return _number(self._data, "<b", position) if position else 0

    def long(self, field: int) -> int:
        position = self.position(field)
        return _number(self._data, "<Q", position) if position else 0

    def vector(self, field: int, item_bytes: int) -> tuple[int, int]:
        """Return where the items begin and how many there are; all of them lie in the file."""
        position = self.position(field)
        if not position:
            return 0, 0
        start = position + _number(self._data, "<I", position)
        count = _number(self._data, "<I", start)
        if start + 4 + count * item_bytes > len(self._data):
            raise InvalidModel(f"a list of {count} items at byte {start} leads past the end: the file is cut short")
        return start + 4, count

    def integers(self, field: int) -> tuple[int, ...]:
        start, count = self.vector(field, 4)
        return struct.unpack_from(f"<{count}i", self._data, start)

    def tables(self, field: int) -> list[_Table]:
        start, count = self.vector(field, 4)
        places = (start + 4 * index for index in range(count))
        return [_Table(self._data, place + _number(self._data, "<I", place)) for place in places]

    def table(self, field: int) -> _Table | None:
        position = self.position(field)
        return _Table(self._data, position + _number(self._data, "<I", position)) if position else None

    def text(self, field: int) -> str:
        start, count = self.vector(field, 1)
        return self._data[start : start + count].decode("utf-8", "replace")


def _number(data: bytes, kind: str, position: int) -> int:
    if not 0 <= position <= len(data) - struct.calcsize(kind):
        raise InvalidModel(f"an offset leads to byte {position} of {len(data)}: the file is cut short or damaged")
    number: int = struct.unpack_from(kind, data, position)[0]
    return number


def _buffer_bytes(buffer: _Table) -> int:
    _, count = buffer.vector(0, 1)
    offset, size = buffer.long(1), buffer.long(2)
    if offset > 1:  # a buffer behind the tables, as models of more than 2 GiB have them
        if offset + size > len(buffer._data):
            raise InvalidModel(f"a buffer of {size} bytes at byte {offset} leads past the end of the file")
        return size
    return count


def _subgraph(table: _Table, buffers: list[int], n_codes: int) -> _Subgraph:
    tensors = table.tables(0)
    for operator in table.tables(3):
        _check_indices("operator code", (operator.integer(0),), n_codes)
        _check_indices("tensor", operator.integers(1), len(tensors), optional=True)
        _check_indices("tensor", operator.integers(2), len(tensors))
    inputs, outputs = table.integers(1), table.integers(2)
    _check_indices("tensor", inputs + outputs, len(tensors))
    names = tuple(tensor.text(3) for tensor in tensors)
    for name, tensor in zip(names, tensors, strict=True):
        _check_constant(name, tensor, buffers)
    axes = tuple(position for tensor in tensors if (position := _misplaced_axis(tensor)))
    return _Subgraph(names, inputs, outputs, axes)


def _check_indices(what: str, indices: tuple[int, ...], count: int, optional: bool = False) -> None:
    for index in indices:
        if not (0 <= index < count or (optional and index == -1)):
            raise InvalidModel(f"{what} {index} is named, but there are {count}")


def _check_constant(name: str, tensor: _Table, buffers: list[int]) -> None:
    shape = tensor.integers(0)
    if any(length < -1 for length in shape):
        raise InvalidModel(f"tensor {name!r} has the shape {list(shape)}; a length is negative")
    _check_indices("buffer", (tensor.integer(2),), len(buffers))
    found, element = buffers[tensor.integer(2)], _ELEMENT_BYTES.get(tensor.byte(1))
    if not found or element is None or tensor.table(6) is not None:  # no constant, or a sparse one
        return
    wanted = math.prod(shape) * element
    if found < wanted:
        raise InvalidModel(f"tensor {name!r} of shape {list(shape)} needs {wanted} bytes, found {found}")


def _misplaced_axis(tensor: _Table) -> int:
    """Where the quantization axis of a vector that has another one lies, or 0."""
    quantization = tensor.table(4)
    if quantization is None or len(tensor.integers(0)) != 1 or not quantization.integer(6):
        return 0
    return quantization.position(6)


def _signature_names(root: _Table, main: _Subgraph) -> dict[str, str]:
    """Names by tensor name of the signature of the main subgraph; none where it would name two values alike."""
    signatures = [table for table in root.tables(7) if table.integer(4) == 0]
    signatures.sort(key=lambda table: table.text(2) != _PREFERRED_SIGNATURE)
    names: dict[str, str] = {}
    for entry in (*signatures[0].tables(0), *signatures[0].tables(1)) if signatures else ():
        _check_indices("tensor", (entry.integer(1),), len(main.names))
        names[main.names[entry.integer(1)]] = entry.text(0)
    return names if len(set(names.values())) == len(names) else {}
