"""Protobuf's wire format: the fields of a message found by their bytes, and written, without a copy of what they hold.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tightship.errors import InvalidModel

__all__ = ["Field", "delimited", "fields", "head"]


@dataclass(frozen=True)
class Field:
    """One field of a message: from `start` on, with its content from `begin` to `end` where it has a length."""

    number: int
    start: int
    begin: int
    end: int
    value: int


def fields(content: memoryview, position: int, end: int) -> Iterator[Field]:
    """Yield the fields between two places of a message. Raises `InvalidModel` where it is none, or is cut."""
    while position < end:
        start = position
        key, position = _varint(content, position)
        number, kind = key >> 3, key & 7
        begin, value = position, 0
        if kind == 0:
            value, position = _varint(content, position)
        elif kind == 2:
            length, begin = _varint(content, position)
            position = begin + length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise InvalidModel(f"not an ONNX model, or a damaged one: wire type {kind} at byte {start}")
        if position > end:
            raise InvalidModel(f"not an ONNX model, or a truncated one: its field at byte {start} is too long")
        yield Field(number, start, begin, position, value)


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise InvalidModel(f"not an ONNX model, or a damaged one: a number at byte {position - 10} has no end")


def delimited(number: int, body: bytes | bytearray) -> bytes:
    """A field that holds `body`."""
    return head(number, len(body)) + body


def head(number: int, length: int) -> bytes:
    """The key and the length that stand before a field of `length` bytes."""
    found = bytearray([number << 3 | 2])
    while length >= 0x80:
        found.append(length & 0x7F | 0x80)
        length >>= 7
    found.append(length)
    return bytes(found)
