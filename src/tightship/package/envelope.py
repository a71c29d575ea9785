"""A package from outside: what can be known and checked of it without a key."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from tightship.errors import PackageError, SignatureError
from tightship.package import signing
from tightship.package.archive import Archive
from tightship.package.manifest import (
    FORMAT,
    MANIFEST,
    MAX_HEADER_BYTES,
    RECIPIENTS,
    SEALED_MANIFEST,
    SIGNATURE,
    Header,
    read_header,
)
from tightship.package.recipient_slots import Slot, newest_slot

__all__ = ["Envelope"]

MAX_SIGNATURE_BYTES = 16 << 20


class Envelope:
    """An archive that is a package: its header, its recipients where it is sealed, its signature where there is one."""

    def __init__(self, path: Path) -> None:
        """Raises `PackageError` where the file is no package. No payload is looked at."""
        self.path = path
        self.archive = Archive(path)
        try:
            self.header = self._header()
        except BaseException:
            self.archive.close()
            raise

    @property
    def sealed(self) -> bool:
        """Whether only its recipients can read it."""
        return self.header.sealed

    @property
    def signed(self) -> bool:
        """Whether there is a signature, by whomever."""
        return SIGNATURE in self.archive

    @property
    def signature(self) -> bytes:
        """The bundle. Raises `SignatureError` where there is none."""
        if not self.signed:
            raise SignatureError(
                f"{self.path} is not signed; ask for one that is, or run: tightship sign {self.path} --with NAME.key"
            )
        return self.archive.read(SIGNATURE, MAX_SIGNATURE_BYTES)

    @property
    def recipients(self) -> Slot:
        """Who can open it. Raises the uniform `SealError` where that cannot be told."""
        return newest_slot(self.archive)

    @property
    def signed_names(self) -> tuple[str, ...]:
        """The entries that a signature covers: all but itself and the recipients, which change without it."""
        return tuple(name for name in self.archive.entries if name != SIGNATURE and name not in RECIPIENTS)

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of the entries that a signature covers, as they lie in the file; the whole file is read."""
        return {name: self.digest_of(name) for name in self.signed_names}

    def digest_of(self, name: str) -> str:
        """SHA-256 of one entry as it lies in the file."""
        whole = hashlib.sha256()
        for block in self.archive.blocks(name):
            whole.update(block)
        return whole.hexdigest()

    def check_signature(
        self, trusted: Sequence[signing.Trusted], digests: Mapping[str, str] | None = None
    ) -> signing.Signer:
        """Check that a trusted key, or a certificate under a trusted root, signed this package.

        `digests` are those of its entries, where they are known.

        Raises `SignatureError`.
        """
        try:
            return signing.verify(self.signature, self.digests if digests is None else digests, trusted)
        except SignatureError as error:
            raise SignatureError(f"{self.path}: {error}") from error

    def stream(self, name: str) -> io.RawIOBase:
        """Give an entry as a binary stream."""
        return _EntryStream(self.archive, name)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self.archive.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _header(self) -> Header:
        if next(iter(self.archive.entries), "") != FORMAT:
            raise PackageError(f"{self.path}: a zip file, but no package: it does not begin with {FORMAT}")
        try:
            header = read_header(self.archive.read(FORMAT, MAX_HEADER_BYTES))
        except PackageError as error:
            raise PackageError(f"{self.path}: {error}") from error
        if SIGNATURE in self.archive and list(self.archive.entries)[-1] != SIGNATURE:
            raise PackageError(f"{self.path}: {SIGNATURE} is not its last entry")
        needed = (*RECIPIENTS, SEALED_MANIFEST) if header.sealed else (MANIFEST,)
        for name in needed:
            if name not in self.archive:
                raise PackageError(f"{self.path}: {name} is missing in it")
        return header


class _EntryStream(io.RawIOBase):
    """An entry of an archive to read from its beginning to its end."""

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive, self._entry = archive, archive[name]
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        n_bytes = self._archive.read_at(self._entry, self._position, memoryview(buffer).cast("B"))  # type: ignore[arg-type]
        self._position += n_bytes
        return n_bytes
