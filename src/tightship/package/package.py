"""A package from inside: its manifest, and its files, each checked against its digest or its seal when it is read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tightship.errors import PackageError, UsageError
from tightship.package import streaming
from tightship.package.envelope import Envelope
from tightship.package.kinds import PrivateKey
from tightship.package.manifest import (
    FORMAT,
    MANIFEST,
    RECIPIENTS,
    SEALED_MANIFEST,
    SIGNATURE,
    FileRecord,
    Manifest,
    PackedArtifact,
    read_manifest,
)
from tightship.package.memory import memory_for
from tightship.package.padding import padded_size
from tightship.package.recipients import Passphrase, unwrap
from tightship.package.signing import Signer, Trusted
from tightship.package.strict_json import MAX_BYTES

__all__ = ["Package", "open_package"]


@dataclass(frozen=True)
class _Seal:
    """What opens the entries of one sealed package."""

    envelope: Envelope
    data_key: bytes | bytearray

    def open(self, entry: str, size: int, digest: str | None = None) -> memoryview:
        """Decrypt an entry into memory; where `digest` is given, the ciphertext must have it too."""
        buffer = memory_for(size)
        source = self.envelope.stream(entry) if digest is None else _Hashed(self.envelope.stream(entry))
        streaming.decrypt_into(self.data_key, self.envelope.header.associated(entry), source, buffer)  # type: ignore[arg-type]
        if isinstance(source, _Hashed) and source.sha256.hexdigest() != digest:
            raise PackageError(f"{self.envelope.path}: {entry} was changed after its signature was checked")
        return buffer


class Package:
    """An open package. Its files are read one by one, into memory; nothing is written anywhere.

    `signer` is whose signature was checked when it was opened, or None where nobody was to be trusted.
    """

    def __init__(self, envelope: Envelope, seal: _Seal | None, trusted: Sequence[Trusted]) -> None:
        self.path = envelope.path
        self.signer: Signer | None = None
        self._envelope = envelope
        self._seal = seal
        self._signed: dict[str, str] = {}
        if seal is not None and trusted:  # what lies in the file is signed: all of it is read before any is opened
            self.signer = envelope.check_signature(trusted)
            self._signed = dict(envelope.digests)
        data = self._manifest_data = self._manifest_bytes()
        self.digest = hashlib.sha256(data).hexdigest()
        try:
            self.manifest: Manifest = read_manifest(data, sealed=seal is not None)
            self._check_entries()
        except PackageError as error:
            raise PackageError(f"{self.path}: {error}") from error
        if seal is None and trusted:
            self.signer = envelope.check_signature(trusted, self._digests())

    @property
    def artifacts(self) -> tuple[PackedArtifact, ...]:
        """The models in it, the one to run where none is named first."""
        return self.manifest.artifacts

    @property
    def envelope(self) -> Envelope:
        """The package from outside."""
        return self._envelope

    def names(self) -> tuple[str, ...]:
        """The names of its files, sorted."""
        return tuple(sorted(self.manifest.files))

    def read(self, name: str) -> memoryview:
        """Return a file's content in memory of its own, after it was checked.

        A sealed file is checked by its seal, others by their SHA-256. Raises `PackageError`, or the
        uniform `SealError`.
        """
        record = self._record(name)
        if self._seal is not None:
            whole = self._seal.open(record.entry, padded_size(record.size), self._signed.get(record.entry))
            return whole[: record.size]
        buffer = memory_for(record.size)
        sha256 = hashlib.sha256()
        for block in self._envelope.archive.blocks(name, buffer):  # hashed while it is in the processor's cache
            sha256.update(block)
        if sha256.hexdigest() != record.sha256:
            raise PackageError(f"{self.path}: {name} was changed: its SHA-256 is not the one in the manifest")
        return buffer

    def documents(self) -> dict[str, bytes]:
        """Entries about the package itself: its manifest; where it is not sealed, header and signature too."""
        if self._seal is not None:
            return {MANIFEST: self._manifest_data}
        archive = self._envelope.archive
        names = [name for name in (FORMAT, MANIFEST, SIGNATURE) if name in archive]
        return {name: archive.read(name, MAX_BYTES) for name in names}

    def check(self, name: str) -> None:
        """Read a file whole and compare its SHA-256 with the manifest's. Raises `PackageError` or `SealError`."""
        record = self._record(name)
        found = self._envelope.digest_of(name) if self._seal is None else hashlib.sha256(self.read(name)).hexdigest()
        if found != record.sha256:
            raise PackageError(f"{self.path}: {name} was changed: its SHA-256 is not the one in the manifest")

    def close(self) -> None:
        """Close the file and wipe the data key; what was read stays."""
        self._envelope.close()
        if self._seal is not None and isinstance(self._seal.data_key, bytearray):
            streaming.wipe(self._seal.data_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _record(self, name: str) -> FileRecord:
        if name not in self.manifest.files:
            raise PackageError(f"{self.path}: there is no file {name} in it")
        return self.manifest.files[name]

    def _manifest_bytes(self) -> bytes:
        archive = self._envelope.archive
        if self._seal is None:
            return archive.read(MANIFEST, MAX_BYTES)
        size = streaming.plaintext_size(archive[SEALED_MANIFEST].size)
        if size > MAX_BYTES:
            raise PackageError(f"{self.path}: its manifest has {size} bytes; {MAX_BYTES} are allowed")
        return bytes(self._seal.open(SEALED_MANIFEST, size, self._signed.get(SEALED_MANIFEST))).rstrip(b"\0")

    def _digests(self) -> dict[str, str]:
        """Of the entries of a package that is not sealed: those the manifest states, which reading checks."""
        stated = {name: record.sha256 for name, record in self.manifest.files.items()}
        return {FORMAT: self._envelope.digest_of(FORMAT), MANIFEST: self.digest, **stated}

    def _check_entries(self) -> None:
        """Raise where the archive holds anything else than the manifest says."""
        archive, sealed = self._envelope.archive, self._seal is not None
        expected = {FORMAT, SIGNATURE, *((*RECIPIENTS, SEALED_MANIFEST) if sealed else (MANIFEST,))}
        for name, record in self.manifest.files.items():
            entry = record.entry if sealed else name
            size = streaming.ciphertext_size(padded_size(record.size)) if sealed else record.size
            if entry in expected:
                raise PackageError(f"the manifest says that two files are in {entry}")
            expected.add(entry)
            if entry not in archive:
                raise PackageError(f"{name} is missing in it")
            if archive[entry].size != size:
                raise PackageError(f"{name} has {archive[entry].size} bytes in it, the manifest says {size}")
        strangers = [name for name in archive.entries if name not in expected]
        if strangers:
            raise PackageError(f"it holds {strangers[0]}, of which the manifest says nothing")


class _Hashed(io.RawIOBase):
    """A stream that hashes what is read of it."""

    def __init__(self, source: io.RawIOBase) -> None:
        self._source = source
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        n_bytes = self._source.readinto(buffer) or 0  # type: ignore[arg-type]
        self.sha256.update(memoryview(buffer)[:n_bytes])  # type: ignore[arg-type]
        return n_bytes


def open_package(
    path: str | Path, key: PrivateKey | Passphrase | None = None, trusted: Sequence[Trusted] = ()
) -> Package:
    """Open a package for reading; `key` is needed where it is sealed.

    With `trusted` keys, or roots of certificates, the signature is checked before anything else is looked at. Raises
    `PackageError`, `SignatureError`, `UsageError` where a key is needed, and the uniform `SealError` where it does not
    fit.
    """
    envelope = Envelope(Path(path))
    try:
        return Package(envelope, _unsealed(envelope, key), trusted)
    except BaseException:
        envelope.close()
        raise


def _unsealed(envelope: Envelope, key: PrivateKey | Passphrase | None) -> _Seal | None:
    if not envelope.sealed:
        return None
    if key is None:
        raise UsageError(
            f"{envelope.path} is sealed; give the key of a receiver (--key NAME.key), or --passphrase-file FILE"
        )
    return _Seal(envelope, unwrap(envelope.recipients.recipients, envelope.header.context, key))
