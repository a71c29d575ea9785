"""Where the wrapped data key of a sealed package lies: two entries of one size, of which the newer sound one counts.

So recipients change without moving a byte of the payload. A slot is JSON, filled up with spaces, then the SHA-256 of
that, then four bytes chosen so that the CRC-32 of the whole is always the same: the zip headers stay right. `rewrite`
writes the older slot and flushes it, then the other: whenever it is killed, one of them is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from tightship.errors import OutputError, PackageError, SealError, UsageError
from tightship.package import strict_json
from tightship.package.archive import Archive, ArchiveWriter
from tightship.package.manifest import RECIPIENTS
from tightship.package.recipients import Wrapped, read_wrapped
from tightship.package.refusal import refusal

__all__ = ["Slot", "add_slots", "newest_slot", "rewrite"]

LEAST_BYTES = 16 << 10
MAX_BYTES = 1 << 20
_TAIL_BYTES = 32 + 4
CRC = 0x7469_6768
"""Of every slot, whatever is in it (the letters `tigh`)."""


@dataclass(frozen=True)
class Slot:
    """The recipients of a sealed package, and how often they have changed."""

    sequence: int
    recipients: tuple[Wrapped, ...]


def add_slots(writer: ArchiveWriter, recipients: Sequence[Wrapped]) -> None:
    """Write both slots alike, with room for about as many recipients again, and at least 16 KiB each."""
    slot = Slot(1, tuple(recipients))
    size = LEAST_BYTES
    while size < 2 * len(_text(slot)) + _TAIL_BYTES:
        size *= 2
    for name in RECIPIENTS:
        writer.add(name, _encode(slot, size))


def newest_slot(archive: Archive) -> Slot:
    """Return the sound slot with the highest number. Raises the uniform `SealError` where neither is sound."""
    found = [slot for slot in (_decode(_slot_bytes(archive, name)) for name in RECIPIENTS) if slot is not None]
    if not found:
        raise refusal()
    return max(found, key=lambda slot: slot.sequence)


def rewrite(archive: Archive, recipients: Sequence[Wrapped]) -> None:
    """Put `recipients` in place of those that are there, in the file itself.

    Raises `OutputError` where it cannot be written, and `UsageError` where there is no room for so many.
    """
    with _locked(archive) as descriptor:
        before = {name: _decode(_slot_bytes(archive, name)) for name in RECIPIENTS}
        sequence = 1 + max((slot.sequence for slot in before.values() if slot), default=0)
        older_first = sorted(RECIPIENTS, key=lambda name: getattr(before[name], "sequence", 0))
        for name in older_first:
            entry = archive[name]
            data = _encode(Slot(sequence, tuple(recipients)), entry.size)
            os.pwrite(descriptor, data, entry.offset)
            os.fsync(descriptor)


@contextmanager
def _locked(archive: Archive) -> Iterator[int]:
    """Open the file for writing, alone; it must still be the one that was read."""
    try:
        descriptor = os.open(archive.path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError(f"{archive.path} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not archive.is_file(descriptor):
            raise OutputError(f"{archive.path} was replaced meanwhile; do it again")
        yield descriptor
    except OSError as error:
        raise OutputError(f"{archive.path} cannot be written: {error.strerror}; do it again") from error
    finally:
        os.close(descriptor)


def _slot_bytes(archive: Archive, name: str) -> bytes:
    data = archive.read(name, MAX_BYTES)
    if len(data) <= _TAIL_BYTES:
        raise PackageError(f"{archive.path}: {name} is too small to hold recipients")
    return data


def _text(slot: Slot) -> bytes:
    rows = [asdict(entry) for entry in slot.recipients]
    return json.dumps({"sequence": slot.sequence, "recipients": rows}).encode()


def _encode(slot: Slot, size: int) -> bytes:
    text = _text(slot)
    if len(text) > size - _TAIL_BYTES:
        raise UsageError(
            f"{len(slot.recipients)} recipients take {len(text)} bytes, and this package has room for "
            f"{size - _TAIL_BYTES}; name fewer, or open it and pack it anew"
        )
    text = text.ljust(size - _TAIL_BYTES)
    content = text + hashlib.sha256(text).digest()
    return content + _four_bytes_to(CRC, zlib.crc32(content))


def _decode(data: bytes) -> Slot | None:
    text, digest = data[:-_TAIL_BYTES], data[-_TAIL_BYTES:-4]
    if hashlib.sha256(text).digest() != digest:
        return None
    try:
        value = strict_json.load(text)
        sequence = value["sequence"]
        if type(sequence) is not int or not 0 < sequence < 2**53 or set(value) != {"sequence", "recipients"}:
            return None
        return Slot(sequence, read_wrapped(value["recipients"]))
    except (ValueError, KeyError, TypeError, SealError):
        return None


def _four_bytes_to(wanted: int, crc: int) -> bytes:
    """Return the four bytes that take a CRC-32 from `crc` to `wanted`: its table is run through backwards.

    Each step of CRC-32 shifts in one byte and adds the row of the table that its lowest byte names; the highest byte of
    a state tells which row that was.
    """
    row_of = {_table(index) >> 24: index for index in range(256)}
    state = wanted ^ 0xFFFFFFFF
    for _ in range(4):
        index = row_of[state >> 24]
        state = ((state ^ _table(index)) << 8 | index) & 0xFFFFFFFF
    return struct.pack("<I", state ^ crc ^ 0xFFFFFFFF)


def _table(index: int) -> int:
    """Row `index` of the CRC-32 table (polynomial 0xEDB88320, reflected)."""
    for _ in range(8):
        index = index >> 1 ^ (0xEDB88320 if index & 1 else 0)
    return index
