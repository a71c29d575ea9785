"""Sealing a stream: AES-256-GCM in Tink's format AES256_GCM_HKDF_1MB, segment by segment, in a few MiB of memory.

A sealed stream is a header (its length 40, 32 bytes of salt, 7 of nonce prefix) and segments of 1 MiB, the first
shorter by the header. The stream's own key is HKDF-SHA256(key, salt, associated data); a segment's nonce is the prefix,
its number, and whether it is the last, so that no segment can be moved, repeated, dropped or cut off unnoticed.
https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, TypeAlias

from tightship.core import extras
from tightship.errors import UsageError
from tightship.package.refusal import refusal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = [
    "KEY_BYTES",
    "ciphertext_size",
    "decrypt",
    "decrypt_into",
    "encrypt",
    "encrypt_into",
    "new_data_key",
    "plaintext_size",
    "wipe",
]

KEY_BYTES = 32
SALT_BYTES = 32
PREFIX_BYTES = 7
HEADER_BYTES = 1 + SALT_BYTES + PREFIX_BYTES
TAG_BYTES = 16
SEGMENT_BYTES = 1 << 20
REST_BYTES = SEGMENT_BYTES - TAG_BYTES
FIRST_BYTES = REST_BYTES - HEADER_BYTES
"""How much of the plaintext the first segment holds, and (`REST_BYTES`) every other."""

Memory: TypeAlias = bytes | bytearray | memoryview | mmap.mmap
Source: TypeAlias = IO[bytes] | Memory
"""What is read from: a binary stream, or bytes that lie in memory (or are mapped there), which are not copied."""


def new_data_key() -> bytearray:
    """Return 32 fresh random bytes; `wipe` them after use."""
    return bytearray(os.urandom(KEY_BYTES))


def wipe(secret: bytearray | memoryview) -> None:
    """Overwrite a secret with zeros, in place, piece by piece."""
    zeros = bytes(min(len(secret), SEGMENT_BYTES))
    for start in range(0, len(secret), SEGMENT_BYTES):
        end = min(start + SEGMENT_BYTES, len(secret))
        secret[start:end] = zeros[: end - start]


def ciphertext_size(n_bytes: int) -> int:
    """How many bytes `encrypt` writes for a plaintext of `n_bytes`."""
    n_more = max(0, -(-(n_bytes - FIRST_BYTES) // REST_BYTES))
    return HEADER_BYTES + n_bytes + (1 + n_more) * TAG_BYTES


def plaintext_size(n_bytes: int) -> int:
    """How many bytes a sealed stream of `n_bytes` holds. Raises `SealError` where no stream has that length."""
    n_segments = max(1, -(-n_bytes // SEGMENT_BYTES))
    size = n_bytes - HEADER_BYTES - n_segments * TAG_BYTES
    if size < 0 or ciphertext_size(size) != n_bytes:
        raise refusal()
    return size


def encrypt(key: bytes | bytearray, associated: bytes, source: Source, target: IO[bytes]) -> int:
    """Seal `source` under a 32-byte key, bound to `associated`; return how many bytes were written to `target`."""
    header = _new_header()
    written = _write(target, memoryview(header))
    sealed = memoryview(bytearray(SEGMENT_BYTES))
    for cipher, nonce, part in _plain_parts(key, associated, header, source):
        size = cipher.encrypt_into(nonce, part, None, sealed[: len(part) + TAG_BYTES])
        written += _write(target, sealed[:size])
    return written


def encrypt_into(
    key: bytes | bytearray, associated: bytes, source: Source, buffer: bytearray | memoryview | mmap.mmap
) -> int:
    """Seal `source` into `buffer`, of `ciphertext_size` bytes, without a copy between; return that size."""
    whole, header = memoryview(buffer).cast("B"), _new_header()
    written = HEADER_BYTES
    whole[:written] = header
    for cipher, nonce, part in _plain_parts(key, associated, header, source):
        size = len(part) + TAG_BYTES
        if written + size > len(whole):
            raise UsageError(f"what is to be sealed does not fit into {len(whole)} bytes; ask `ciphertext_size`")
        written += cipher.encrypt_into(nonce, part, None, whole[written : written + size])
    return written


def decrypt(key: bytes | bytearray, associated: bytes, source: Source, target: IO[bytes]) -> int:
    """Open a sealed stream into `target`; return how many bytes were written.

    Only what is authenticated is written, but that it ends where it should is known at the end: write to memory or to
    a temporary, and use it after the return. Raises the uniform `SealError`.
    """
    opened = memoryview(bytearray(SEGMENT_BYTES))
    written = 0
    try:
        for cipher, nonce, part in _sealed_parts(key, associated, source):
            size = _open(cipher, nonce, part, opened)
            written += _write(target, opened[:size])
    finally:
        wipe(opened)
    return written


def decrypt_into(
    key: bytes | bytearray, associated: bytes, source: Source, buffer: bytearray | memoryview | mmap.mmap
) -> int:
    """Open a sealed stream into `buffer`, which must be as long as its plaintext; return that length.

    Raises the uniform `SealError`, and leaves zeros in the buffer then.
    """
    whole = memoryview(buffer).cast("B")
    written = 0
    try:
        for cipher, nonce, part in _sealed_parts(key, associated, source):
            written += _open(cipher, nonce, part, whole[written:])
        if written != len(whole):
            raise refusal()
    except BaseException:
        wipe(whole)
        raise
    return written


def _new_header() -> bytes:
    return bytes([HEADER_BYTES]) + os.urandom(SALT_BYTES + PREFIX_BYTES)


def _plain_parts(
    key: bytes | bytearray, associated: bytes, header: bytes, source: Source
) -> Iterator[tuple[AESGCM, bytes, memoryview]]:
    """What is to be sealed, segment by segment, with its cipher and nonce."""
    cipher = _cipher(key, associated, header)
    for number, (part, last) in enumerate(_parts(source, FIRST_BYTES, REST_BYTES)):
        yield cipher, _nonce(header, number, last), part


def _sealed_parts(
    key: bytes | bytearray, associated: bytes, source: Source
) -> Iterator[tuple[AESGCM, bytes, memoryview]]:
    """Every segment of a sealed stream with its cipher and nonce."""
    header, rest = _split_header(source)
    cipher = _cipher(key, associated, header)
    for number, (part, last) in enumerate(_parts(rest, SEGMENT_BYTES - HEADER_BYTES, SEGMENT_BYTES)):
        yield cipher, _nonce(header, number, last), part


def _split_header(source: Source) -> tuple[bytes, Source]:
    rest: Source = source
    if isinstance(source, Memory):
        view = memoryview(source).cast("B")
        header, rest = bytes(view[:HEADER_BYTES]), view[HEADER_BYTES:]
    else:
        buffer = bytearray(HEADER_BYTES)
        header = bytes(buffer[: _fill(source, memoryview(buffer))])
    if len(header) != HEADER_BYTES or header[0] != HEADER_BYTES:
        raise refusal()
    return header, rest


def _open(cipher: AESGCM, nonce: bytes, part: memoryview, target: memoryview) -> int:
    from cryptography.exceptions import InvalidTag

    size = len(part) - TAG_BYTES
    if not 0 <= size <= len(target):
        raise refusal()
    try:
        return cipher.decrypt_into(nonce, part, None, target[:size])
    except InvalidTag:
        raise refusal() from None


def _cipher(key: bytes | bytearray, associated: bytes, header: bytes) -> AESGCM:
    """The cipher of one stream; its key is derived into memory that is wiped."""
    extras.check("cryptography", "sealing and opening")
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if len(key) != KEY_BYTES:
        raise UsageError(f"a data key has {KEY_BYTES} bytes, found {len(key)}")
    derived = bytearray(KEY_BYTES)
    try:
        HKDF(SHA256(), KEY_BYTES, header[1 : 1 + SALT_BYTES], associated).derive_into(key, derived)
        return AESGCM(derived)
    finally:
        wipe(derived)


def _nonce(header: bytes, number: int, last: bool) -> bytes:
    return header[1 + SALT_BYTES :] + struct.pack(">IB", number, last)


def _parts(source: Source, first: int, rest: int) -> Iterator[tuple[memoryview, bool]]:
    """Cut a source into `first`, `rest`, `rest`, ... bytes, each with whether it is the last."""
    if isinstance(source, Memory):
        yield from _slices(memoryview(source).cast("B"), first, rest)
        return
    view = memoryview(bytearray(rest + 1))  # one byte is read ahead: it tells whether more follows
    size, held = first, _fill(source, view[: first + 1])
    while held > size:
        yield view[:size], False
        view[0] = view[size]
        size, held = rest, 1 + _fill(source, view[1:])
    yield view[:held], True


def _slices(view: memoryview, first: int, rest: int) -> Iterator[tuple[memoryview, bool]]:
    start, size = 0, first
    while len(view) - start > size:
        yield view[start : start + size], False
        start, size = start + size, rest
    yield view[start:], True


def _fill(source: IO[bytes], view: memoryview) -> int:
    """Read until `view` is full or the source ends; return how many bytes were read."""
    readinto = getattr(source, "readinto", None)
    filled = 0
    while filled < len(view):
        if readinto is not None:
            n_read = int(readinto(view[filled:]) or 0)
        else:
            chunk = source.read(len(view) - filled)
            n_read = len(chunk)
            view[filled : filled + n_read] = chunk
        if n_read == 0:
            break
        filled += n_read
    return filled


def _write(target: IO[bytes], data: memoryview) -> int:
    """Write all of `data`: an unbuffered file may take less at a time."""
    done = 0
    while done < len(data):
        done += target.write(data[done:])
    return done
