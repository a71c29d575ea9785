"""Sealed streams in hostile hands: one uniform error, and nothing usable written."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest

from tightship.errors import SealError
from tightship.package import streaming
from tightship.package.refusal import REFUSAL
from tightship.package.streaming import HEADER_BYTES, SEGMENT_BYTES

KEY = bytes(range(32))
ASSOCIATED = b"model.onnx"
PLAIN = np.random.default_rng(0).bytes(3 * SEGMENT_BYTES + 1000)
N_FLIPS = 60


def seal(data: bytes, key: bytes = KEY, associated: bytes = ASSOCIATED) -> bytes:
    target = io.BytesIO()
    streaming.encrypt(key, associated, data, target)
    return target.getvalue()


SEALED = seal(PLAIN)
SHORT = seal(b"a short file of weights")
SEGMENTS = [SEALED[start : start + SEGMENT_BYTES] for start in range(0, len(SEALED), SEGMENT_BYTES)]


def refused(data: bytes, n_bytes: int = len(PLAIN), key: bytes = KEY, associated: bytes = ASSOCIATED) -> bytes:
    """Check that all ways of opening refuse; return what was written before the refusal."""
    target = io.BytesIO()
    for source in (data, io.BytesIO(data)):
        with pytest.raises(SealError) as caught:
            streaming.decrypt(key, associated, source, target)
        assert str(caught.value) == REFUSAL
        assert caught.value.__cause__ is None
    buffer = bytearray(b"\xff" * n_bytes)
    with pytest.raises(SealError) as caught:
        streaming.decrypt_into(key, associated, data, buffer)
    assert str(caught.value) == REFUSAL
    assert not any(buffer)
    return target.getvalue()


def test_the_stream_opens_when_nobody_touched_it() -> None:
    target = io.BytesIO()
    streaming.decrypt(KEY, ASSOCIATED, SEALED, target)
    assert target.getvalue() == PLAIN


@pytest.mark.parametrize("position", range(len(SHORT)))
def test_a_flipped_bit_anywhere_is_refused(position: int) -> None:
    changed = bytearray(SHORT)
    changed[position] ^= 1 << (position % 8)
    assert refused(bytes(changed), 23) == b""


def test_flipped_bits_all_over_a_long_stream_are_refused() -> None:
    rng = np.random.default_rng(1)
    for position in rng.integers(HEADER_BYTES, len(SEALED), N_FLIPS):
        changed = bytearray(SEALED)
        changed[position] ^= 1 << int(rng.integers(8))
        target = io.BytesIO()
        with pytest.raises(SealError, match=r"^the seal does not open"):
            streaming.decrypt(KEY, ASSOCIATED, bytes(changed), target)
        assert PLAIN.startswith(target.getvalue())
        assert len(target.getvalue()) <= position


def test_a_flipped_bit_in_the_first_segment_leaves_nothing_written() -> None:
    changed = bytearray(SEALED)
    changed[SEGMENT_BYTES - 1] ^= 1
    assert refused(bytes(changed)) == b""


@pytest.mark.parametrize(
    "arrange",
    [
        lambda s: [s[0], s[2], s[1], s[3]],
        lambda s: [s[0], s[1], s[1], s[2], s[3]],
        lambda s: [s[0], s[2], s[3]],
        lambda s: [s[0], s[1], s[3]],
        lambda s: [s[1], s[2], s[3]],
        lambda s: s[:3],
        lambda s: s[:1],
        lambda s: [*s, s[3]],
        lambda s: [*s, b"\x00"],
        lambda s: [*s[:3], s[3][:-1]],
        lambda s: [s[0][:HEADER_BYTES], *s[1:]],
    ],
    ids=["swapped", "repeated", "second dropped", "third dropped", "first dropped", "last dropped", "first alone",
         "last repeated", "a byte added", "a byte cut off", "only the header of the first"],
)  # fmt: skip
def test_segments_out_of_their_place_are_refused(arrange: Callable[[list[bytes]], list[bytes]]) -> None:
    refused(b"".join(arrange(SEGMENTS)))


@pytest.mark.parametrize("n_bytes", [0, 1, 39, 40, 41, 55, 56, 57, SEGMENT_BYTES - 1, SEGMENT_BYTES, len(SEALED) - 1])
def test_a_truncated_stream_is_refused_wherever_it_ends(n_bytes: int) -> None:
    refused(SEALED[:n_bytes])


def test_a_segment_of_another_stream_under_the_same_key_is_refused() -> None:
    other = seal(PLAIN)
    refused(SEALED[:SEGMENT_BYTES] + other[SEGMENT_BYTES : 2 * SEGMENT_BYTES] + SEALED[2 * SEGMENT_BYTES :])


def test_a_wrong_key_and_another_name_get_the_same_answer() -> None:
    refused(SHORT, 23, key=bytes(32))
    refused(SHORT, 23, associated=b"other.onnx")
    refused(SHORT, 23, associated=b"")


@pytest.mark.parametrize("size", [0, 1, 24, 39, 41, 255])
def test_a_header_that_tells_another_length_is_refused(size: int) -> None:
    refused(bytes([size]) + SHORT[1:], 23)


def test_random_bytes_are_refused() -> None:
    for seed in range(20):
        refused(np.random.default_rng(seed).bytes(500 * seed), 10)
