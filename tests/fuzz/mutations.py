"""Ways to damage a file, drawn at random: from one bit to whole pieces, and numbers that programmers get wrong."""

from __future__ import annotations

import random
import struct

__all__ = ["mutated"]

_NUMBERS = (0, 1, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -1, -(2**31), -(2**63))
_TEXTS = (b"NaN", b"null", b"[[[[", b"}}", b'"', b"../", b"\0", b"-1", b"1e999", b"99999999999999999999", b"\xff\xfe")
_MOST = 6


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """Return `seed` with one to six kinds of damage."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3, _MOST))):
        if data:
            rng.choice(_WAYS)(data, rng)
    return bytes(data)


def _flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(data: bytearray, rng: random.Random) -> None:
    width, place = rng.choice((2, 4, 8)), rng.randrange(len(data))
    raw = struct.pack("<q", rng.choice(_NUMBERS))[:width]
    data[place : place + width] = raw


def _text(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place : place + rng.choice((0, 1, 4))] = rng.choice(_TEXTS)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 64)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.randrange(1, 256)]
    data[start:start] = piece * rng.choice((1, 2, 50))


def _move(data: bytearray, rng: random.Random) -> None:
    start, place = rng.randrange(len(data)), rng.randrange(len(data))
    piece = data[start : start + rng.randrange(1, 64)]
    data[place : place + len(piece)] = piece


def _noise(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place : place + 16] = rng.randbytes(16)


_WAYS = (_flip, _flip, _set, _number, _number, _text, _cut, _remove, _repeat, _move, _noise)
