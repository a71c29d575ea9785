"""Writing a package: contents in a fixed order, whole or not at all; and signing one that is there."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from tightship.core.atomic import writing
from tightship.errors import PackageError
from tightship.package import signing, streaming
from tightship.package.archive import BLOCK_BYTES, ArchiveWriter, Sink
from tightship.package.envelope import Envelope
from tightship.package.kinds import PublicKey
from tightship.package.manifest import (
    FORMAT,
    MANIFEST,
    SEALED_MANIFEST,
    SIGNATURE,
    FileRecord,
    Header,
    Manifest,
    write_json,
)
from tightship.package.padding import padded_size
from tightship.package.recipient_slots import add_slots
from tightship.package.recipients import Passphrase, wrap
from tightship.package.signing import SigningKey

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["Content", "sign_package", "write_package"]

ID_BYTES = 16

Content = Path | bytes
"""What a file of a package is made from: a file on disk, or bytes."""


def write_package(
    path: Path,
    manifest: Manifest,
    contents: Mapping[str, Content],
    recipients: Sequence[PublicKey | Passphrase] = (),
    sign_with: SigningKey | None = None,
    finish: Callable[[Mapping[str, FileRecord]], Mapping[str, bytes]] | None = None,
    certificates: Sequence[Certificate] = (),
) -> Manifest:
    """Write the files and a manifest that knows them; return that manifest.

    `finish` is told the records of all files and returns files to add, such as a bill of materials. With `recipients`
    every file and the manifest are sealed; `certificates` are those of the signer, as in `signing.sign`. The same
    inputs give the same bytes, but for the keys of a sealed one, and signatures that are drawn at random.
    Raises `OutputError`; what was at `path` stays until the new package is whole.
    """
    with writing(path) as temporary:
        with temporary.open("w+b") as file:
            writer = _SealingWriter(file, recipients) if recipients else _PlainWriter(file)
            files = {name: writer.add(name, contents[name]) for name in sorted(contents)}
            late = finish(files) if finish else {}
            files |= {name: writer.add(name, late[name]) for name in sorted(late)}
            manifest = replace(manifest, files=dict(sorted(files.items())))
            writer.close(write_json(manifest))
        if sign_with is not None:
            _append_signature(temporary, sign_with, writer.name or manifest.name, certificates)
    return manifest


def sign_package(
    path: Path, key: SigningKey, check: Callable[[Path], str], certificates: Sequence[Certificate] = ()
) -> None:
    """Sign a package, in place of the signature that it has; the file is replaced in one step.

    `check` is given the very bytes that are signed, in a file of their own, and returns the name to sign under.
    """
    with Envelope(path) as envelope:
        entries = [entry for entry in envelope.archive.entries.values() if entry.name != SIGNATURE]
    with writing(path) as temporary:
        with path.open("rb", buffering=0) as source, temporary.open("w+b") as target:
            _copy(source, target, entries[-1].end)
            ArchiveWriter(target, entries).finish()
        _append_signature(temporary, key, check(temporary), certificates)


class _PlainWriter:
    """Every file is an entry of its own name."""

    name = ""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = ArchiveWriter(file)
        self._writer.add(FORMAT, write_json(Header()))

    def add(self, name: str, content: Content) -> FileRecord:
        """Write one file and return its record."""
        with _opened(content) as (source, size), self._writer.entry(name, size) as sink:
            hashed = _Hashing(source, size)
            _copy(hashed, sink, size)
        return FileRecord(hashed.sha256.hexdigest(), size)

    def close(self, manifest: bytes) -> None:
        """Write the manifest and the directory."""
        self._writer.add(MANIFEST, manifest)
        self._writer.finish()


class _SealingWriter:
    """Every file is sealed by itself, in an entry that is called by a number."""

    def __init__(self, file: BinaryIO, recipients: Sequence[PublicKey | Passphrase]) -> None:
        self._header = Header(sealed=True, id=secrets.token_hex(ID_BYTES))
        self._key = streaming.new_data_key()
        self._count = 0
        self._writer = ArchiveWriter(file)
        self._writer.add(FORMAT, write_json(self._header))
        add_slots(self._writer, wrap(self._key, self._header.context, recipients))

    @property
    def name(self) -> str:
        """What it is called by a signature, which everybody can read: its id."""
        return self._header.id

    def add(self, name: str, content: Content) -> FileRecord:
        """Seal one file and return its record."""
        self._count += 1
        entry = f"sealed/{self._count}"
        with _opened(content) as (source, size):
            hashed = _Hashing(source, size)
            self._seal(entry, hashed, padded_size(size))
        return FileRecord(hashed.sha256.hexdigest(), size, entry)

    def close(self, manifest: bytes) -> None:
        """Seal the manifest, forget the key, and write the directory."""
        size = padded_size(len(manifest))
        self._seal(SEALED_MANIFEST, _Hashing(io.BytesIO(manifest), len(manifest)), size)
        streaming.wipe(self._key)
        self._writer.finish()

    def _seal(self, entry: str, source: _Hashing, size: int) -> None:
        source.pad_to(size)
        with self._writer.entry(entry, streaming.ciphertext_size(size)) as sink:
            streaming.encrypt(self._key, self._header.associated(entry), source, sink)  # type: ignore[arg-type]


class _Hashing(io.RawIOBase):
    """Reads a source of known size, hashes it, and adds zeros to it up to a length."""

    def __init__(self, source: IO[bytes], size: int) -> None:
        self._source, self._left, self._zeros = source, size, 0
        self._size = size
        self.sha256 = hashlib.sha256()

    def pad_to(self, size: int) -> None:
        """Make it `size` bytes long."""
        self._zeros = size - self._size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if self._left:
            n_bytes: int = self._source.readinto(view[: self._left])  # type: ignore[attr-defined]
            if not n_bytes:
                raise PackageError("a file became shorter while it was packed; pack again")
            self._left -= n_bytes
            self.sha256.update(view[:n_bytes])
            return n_bytes
        n_bytes = min(len(view), self._zeros)
        view[:n_bytes] = bytes(n_bytes)
        self._zeros -= n_bytes
        return n_bytes


@contextmanager
def _opened(content: Content) -> Iterator[tuple[IO[bytes], int]]:
    """Give the content as a stream, with its size."""
    if isinstance(content, bytes):
        yield io.BytesIO(content), len(content)
        return
    try:
        file = content.open("rb", buffering=0)
    except OSError as error:
        raise PackageError(f"{content} cannot be packed: {error.strerror}") from error
    with file:
        yield file, os.fstat(file.fileno()).st_size


def _copy(source: IO[bytes] | io.RawIOBase, target: IO[bytes] | Sink, size: int) -> None:
    block = memoryview(bytearray(BLOCK_BYTES))
    left = size
    while left:
        n_bytes: int = source.readinto(block[: min(left, BLOCK_BYTES)])  # type: ignore[union-attr]
        if not n_bytes:
            raise PackageError("a file became shorter while it was packed; pack again")
        target.write(block[:n_bytes])
        left -= n_bytes


def _append_signature(path: Path, key: SigningKey, name: str, certificates: Sequence[Certificate] = ()) -> None:
    with Envelope(path) as envelope:
        bundle = signing.sign(envelope.digests, name, key, certificates)
        entries = list(envelope.archive.entries.values())
    with path.open("r+b") as file:
        writer = ArchiveWriter(file, entries)
        writer.add(SIGNATURE, bundle)
        writer.finish()
