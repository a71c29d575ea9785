"""Pickles written opcode by opcode, so that tensors stream through and no other library decides what is in it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = [
    "BUILD",
    "EMPTY_DICT",
    "EMPTY_TUPLE",
    "FALSE",
    "MARK",
    "PERSISTENT",
    "PROTOCOL_2",
    "PROTOCOL_4",
    "REDUCE",
    "SETITEMS",
    "STOP",
    "TUPLE",
    "bytes_head",
    "integer",
    "name",
    "text",
    "tuple_of",
]

PROTOCOL_2, PROTOCOL_4 = b"\x80\x02", b"\x80\x04"
"""2 is what torch reads with `weights_only`; 4, of Python 3.4, is the first with bytes past 4 GiB."""

MARK, TUPLE, EMPTY_TUPLE, EMPTY_DICT, SETITEMS, STOP = b"(", b"t", b")", b"}", b"u", b"."
REDUCE, BUILD, PERSISTENT, FALSE = b"R", b"b", b"Q", b"\x89"


def text(value: str) -> bytes:
    """BINUNICODE; lone surrogates as Python writes them."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    """LONG1."""
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(values: Sequence[int]) -> bytes:
    """A tuple of integers."""
    return MARK + b"".join(map(integer, values)) + TUPLE


def bytes_head(length: int) -> bytes:
    """BINBYTES8; the bytes themselves follow."""
    return b"\x8e" + struct.pack("<Q", length)
