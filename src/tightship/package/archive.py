"""The zip file around a package: written in one canonical form, and read only in that form.

Every entry is stored (not compressed) and lies behind the one before it, without extra fields, comments, gaps or data
descriptors. So the reader takes names, sizes and checksums from the central directory, writes all headers anew from
them, and compares: what differs by a byte is refused, whatever the trick was (docs/format.md, "The archive").
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self

from tightship.errors import PackageError

__all__ = ["BLOCK_BYTES", "Archive", "ArchiveWriter", "Entry", "check_names"]

BLOCK_BYTES = 2**20
MAX_ENTRIES = 10_000
MAX_NAME_BYTES = 512
MAX_DIRECTORY_BYTES = MAX_ENTRIES * (46 + MAX_NAME_BYTES + 28)

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")

_VERSION, _VERSION_64 = 20, 45
_UTF8 = 0x800
_DATE = 0x21  # 1 January 1980, the first day a zip file knows
_UNIX = 3 << 8
_PLAIN_FILE = (stat.S_IFREG | 0o644) << 16
_WIDE = 0xFFFFFFFF
_MANY = 0xFFFF


@dataclass(frozen=True)
class Entry:
    """A stored file: its name, CRC-32, size, and where its local header begins."""

    name: str
    crc: int
    size: int
    header_offset: int

    @property
    def offset(self) -> int:
        """Where its content begins."""
        return self.header_offset + len(_local_header(self))

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.offset + self.size


class Archive:
    """An open package file whose headers were all found in the canonical form. Contents are not looked at yet.

    The file stays open: that another takes its name changes nothing here.
    """

    def __init__(self, path: Path) -> None:
        """Raises `PackageError`, in bounded time and memory, where the file is anything else."""
        self.path = path
        self._descriptor = _open(path)
        try:
            self.size = os.fstat(self._descriptor).st_size
            self.entries = {entry.name: entry for entry in self._checked()}
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Entry:
        if name not in self.entries:
            raise PackageError(f"{self.path}: there is no entry {name} in it")
        return self.entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def read(self, name: str, limit: int) -> bytes:
        """Return a small entry whole. Raises `PackageError` where it is larger than `limit` bytes."""
        entry = self[name]
        if entry.size > limit:
            raise PackageError(f"{self.path}: {name} has {entry.size} bytes, {limit} are allowed")
        return self._pread(entry.offset, entry.size)

    def read_at(self, entry: Entry, position: int, buffer: memoryview) -> int:
        """Read what fits `buffer` from `position` of an entry on; return how many bytes, 0 at its end."""
        wanted = min(len(buffer), entry.size - position)
        if wanted <= 0:
            return 0
        n_bytes = os.preadv(self._descriptor, [buffer[:wanted]], entry.offset + position)
        if not n_bytes:
            raise PackageError(f"{self.path}: it became shorter while it was read")
        return n_bytes

    def blocks(self, name: str, buffer: memoryview | None = None) -> Iterator[memoryview]:
        """Yield the content of an entry in blocks: one behind the other in `buffer`, else each in place of the last."""
        entry, block = self[name], memoryview(bytearray(BLOCK_BYTES))
        done = 0
        while n_bytes := self.read_at(entry, done, block if buffer is None else buffer[done : done + BLOCK_BYTES]):
            yield block[:n_bytes] if buffer is None else buffer[done : done + n_bytes]
            done += n_bytes

    def is_file(self, descriptor: int) -> bool:
        """Whether a descriptor is of the very file that was opened here."""
        return os.path.samestat(os.fstat(descriptor), os.fstat(self._descriptor))

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pread(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise PackageError(f"{self.path}: truncated: expected {size} bytes at {offset}, found {len(data)}")
        return data

    def _checked(self) -> tuple[Entry, ...]:
        start, size, count = self._directory()
        directory = self._pread(start, size)
        try:
            entries = tuple(_entries(directory, count))
            check_names([entry.name for entry in entries])
            _check_layout(entries, start)
        except PackageError as error:
            raise PackageError(f"{self.path}: {error}") from error
        if directory + self._pread(start + size, self.size - start - size) != _trailer(entries, start):
            raise PackageError(f"{self.path}: {_strangeness(directory)}")
        for entry in entries:
            header = _local_header(entry)
            if self._pread(entry.header_offset, len(header)) != header:
                raise PackageError(f"{self.path}: the header before {entry.name!r} is not what the directory says")
        return entries

    def _directory(self) -> tuple[int, int, int]:
        """Return where the central directory begins, its size, and how many entries the end record names."""
        if self.size < _END.size:
            raise PackageError(f"{self.path}: no package: {self.size} bytes are too few for one")
        end = _END.unpack(self._pread(self.size - _END.size, _END.size))
        if end[0] != b"PK\5\6":
            raise PackageError(f"{self.path}: no package, or a truncated one: it does not end as a zip file does")
        n_trailing, (count, size, start) = _END.size, (end[4], end[5], end[6])
        if _WIDE in (size, start) or count == _MANY:
            n_trailing += _END64.size + _LOCATOR.size
            if self.size < n_trailing:
                raise PackageError(f"{self.path}: truncated: the wide end record is missing")
            wide = _END64.unpack(self._pread(self.size - n_trailing, _END64.size))
            count, size, start = wide[7], wide[8], wide[9]
        if count > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
            raise PackageError(f"{self.path}: {count} entries in {size} bytes of directory; {MAX_ENTRIES} are allowed")
        if start + size + n_trailing != self.size:
            told = start + size + n_trailing
            raise PackageError(f"{self.path}: {self.size} bytes, but its end record speaks of {told}")
        return start, size, count


class ArchiveWriter:
    """Writes entries one behind the other to a file that can be read back and sought, and the directory at the end."""

    def __init__(self, file: BinaryIO, entries: Sequence[Entry] = ()) -> None:
        """`entries` are those that are in the file already; writing goes on behind them."""
        self._file = file
        self._entries = list(entries)

    @contextmanager
    def entry(self, name: str, size: int) -> Iterator[Sink]:
        """Give what takes the content of an entry of exactly `size` bytes."""
        check_names([*(entry.name for entry in self._entries), name])
        offset = self._entries[-1].end if self._entries else 0
        entry = Entry(name, 0, size, offset)
        self._file.seek(offset)
        self._file.write(_local_header(entry))
        sink = Sink(self._file)
        yield sink
        if sink.size != size:
            raise PackageError(f"{name}: {size} bytes were expected and {sink.size} written; did it change meanwhile?")
        entry = replace(entry, crc=sink.crc)
        self._file.seek(offset)
        self._file.write(_local_header(entry))
        self._entries.append(entry)

    def add(self, name: str, content: bytes) -> None:
        """Write a small entry."""
        with self.entry(name, len(content)) as sink:
            sink.write(content)

    def finish(self) -> None:
        """Write the directory; what lay behind it is cut off."""
        start = self._entries[-1].end if self._entries else 0
        self._file.seek(start)
        self._file.write(_trailer(self._entries, start))
        self._file.truncate()


class Sink:
    """Takes the content of one entry, and knows its size and CRC-32 so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.crc = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append; returns the number of bytes, as files do."""
        self._file.write(data)
        self.crc = zlib.crc32(data, self.crc)
        self.size += len(data)
        return len(data)


def check_names(names: Sequence[str]) -> None:
    """Raise `PackageError` where a name could leave its folder, or two could not lie in one folder of any system."""
    for name in names:
        _check_name(name)
    folded = [name.casefold() for name in names]
    taken = set(folded)
    if len(taken) != len(names):
        twice = next(name for index, name in enumerate(names) if folded[index] in folded[:index])
        raise PackageError(f"two entries have the name {twice!r}")
    for name in folded:
        parts = name.split("/")
        if any("/".join(parts[:depth]) in taken for depth in range(1, len(parts))):
            raise PackageError(f"an entry is both a file and the folder of {name!r}")


def _check_name(name: str) -> None:
    bad = not name or name.startswith("/") or name.endswith("/") or "\\" in name or ":" in name
    if bad or any(part in ("", ".", "..") for part in name.split("/")) or not name.isprintable():
        raise PackageError(f"an entry has the name {name!r}; expected a plain relative path")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise PackageError(f"an entry has a name of {len(name.encode())} bytes; {MAX_NAME_BYTES} are allowed")


def _check_layout(entries: Sequence[Entry], start: int) -> None:
    expected = 0
    for entry in entries:
        if entry.header_offset != expected:
            raise PackageError(f"entry {entry.name!r} begins at byte {entry.header_offset}, expected {expected}")
        expected = entry.end
    if expected != start:
        raise PackageError(f"its entries end at byte {expected}, its directory begins at {start}")


def _entries(directory: bytes, count: int) -> Iterator[Entry]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise PackageError(f"its directory ends before {count} entries")
        fields = _CENTRAL.unpack_from(directory, position)
        n_name, n_extra, n_comment = fields[10:13]
        position += _CENTRAL.size
        name = directory[position : position + n_name]
        extra = directory[position + n_name : position + n_name + n_extra]
        position += n_name + n_extra + n_comment
        size, _, offset = _widened((fields[9], fields[8], fields[16]), extra)
        try:
            yield Entry(name.decode(), fields[7], size, offset)
        except UnicodeDecodeError as error:
            raise PackageError(f"an entry has a name that is not UTF-8: {name!r}") from error


def _widened(values: Sequence[int], extra: bytes) -> Iterator[int]:
    """Give the wide number from the extra field in place of each value that says so."""
    numbers = struct.iter_unpack("<Q", extra[4 : 4 + (len(extra) - 4) // 8 * 8] if len(extra) > 4 else b"")
    for value in values:
        yield next(numbers, (value,))[0] if value == _WIDE else value


def _local_header(entry: Entry) -> bytes:
    name, wide = entry.name.encode(), entry.size >= _WIDE
    size = _WIDE if wide else entry.size
    extra = struct.pack("<2H2Q", 1, 16, entry.size, entry.size) if wide else b""
    version, flags = _VERSION_64 if wide else _VERSION, 0 if name.isascii() else _UTF8
    fixed = _LOCAL.pack(b"PK\3\4", version, flags, 0, 0, _DATE, entry.crc, size, size, len(name), len(extra))
    return fixed + name + extra


def _central_header(entry: Entry) -> bytes:
    name = entry.name.encode()
    wide = [value for value in (entry.size, entry.size, entry.header_offset) if value >= _WIDE]
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    version, flags = _VERSION_64 if wide else _VERSION, 0 if name.isascii() else _UTF8
    size, offset = min(entry.size, _WIDE), min(entry.header_offset, _WIDE)
    fixed = _CENTRAL.pack(
        b"PK\1\2", version | _UNIX, version, flags, 0, 0, _DATE, entry.crc, size, size,
        len(name), len(extra), 0, 0, 0, _PLAIN_FILE, offset,
    )  # fmt: skip
    return fixed + name + extra


def _trailer(entries: Sequence[Entry], start: int) -> bytes:
    """Everything behind the last entry: directory, wide end record where one is needed, end record."""
    directory = b"".join(map(_central_header, entries))
    size, count, wide = len(directory), len(entries), b""
    if start >= _WIDE:
        end64 = _END64.pack(b"PK\6\6", 44, _VERSION_64 | _UNIX, _VERSION_64, 0, 0, count, count, size, start)
        wide = end64 + _LOCATOR.pack(b"PK\6\7", 0, start + size, 1)
    return directory + wide + _END.pack(b"PK\5\6", 0, 0, count, count, size, min(start, _WIDE), 0)


def _strangeness(directory: bytes) -> str:
    """Say what is not canonical about the first entry that shows it."""
    position = 0
    while position + _CENTRAL.size <= len(directory):
        fields = _CENTRAL.unpack_from(directory, position)
        n_name, n_extra, n_comment = fields[10:13]
        name = directory[position + _CENTRAL.size :][:n_name].decode(errors="replace")
        kind = stat.S_IFMT(fields[15] >> 16)
        if fields[3] & 1:
            return f"entry {name!r} is encrypted by zip; packages are sealed in another way"
        if fields[4]:
            return f"entry {name!r} is compressed (method {fields[4]}); packages store"
        if kind != stat.S_IFREG:
            return f"entry {name!r} is no plain file (mode {fields[15] >> 16:o})"
        position += _CENTRAL.size + n_name + n_extra + n_comment
    return "its directory is not in the form that packages have; was it written by another program?"


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
    except OSError as error:
        raise PackageError(f"{path}: cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PackageError(f"{path}: expected a package, found no plain file")
    return descriptor
