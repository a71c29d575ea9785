"""What a package says of itself: `manifest.json`, with the digest of every file, and `format.json`, the first entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from tightship.core.model import Step
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.errors import PackageError
from tightship.package import strict_json
from tightship.package.archive import MAX_ENTRIES, check_names
from tightship.package.declaring import check_known, check_packed
from tightship.package.processing import Processing

__all__ = [
    "BOM",
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST",
    "RECIPIENTS",
    "SEALED_MANIFEST",
    "SIGNATURE",
    "FileRecord",
    "Header",
    "Manifest",
    "PackedArtifact",
    "read_header",
    "read_manifest",
    "write_json",
]

FORMAT = "format.json"
MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
SEALED_MANIFEST = "sealed/manifest"
RECIPIENTS = ("recipients/a", "recipients/b")
BOM = "bom.cdx.json"

FORMAT_NAME = "tightship package"
FORMAT_VERSION = 1
MAX_HEADER_BYTES = 4096

_SHA256_LENGTH = 64
_ID_LENGTH = 32

Read = TypeVar("Read")


@dataclass(frozen=True)
class Header:
    """`format.json`: what this is, in which version, whether it is sealed, and the random id of a sealed package."""

    format: str = FORMAT_NAME
    version: int = FORMAT_VERSION
    sealed: bool = False
    id: str = ""

    @property
    def context(self) -> bytes:
        """What binds the data key to this one sealed package."""
        return f"{self.format} {self.version} {self.id}".encode()

    def associated(self, entry: str) -> bytes:
        """What binds a ciphertext to its place in the package."""
        return self.context + b"\n" + entry.encode()


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of a file; `entry` is its entry in a sealed package, else empty."""

    sha256: str
    size: int
    entry: str = ""


@dataclass(frozen=True)
class PackedArtifact:
    """A model in the package, for one target: `path` is its main file, or folder, among the files of the package."""

    name: str
    format: str
    path: str
    target: Target
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.name}: {self.path} for {self.target}, {self.size_bytes:,} bytes"


@dataclass(frozen=True)
class Manifest:
    """All that is known of a package. Empty values are not known.

    `recipe` is the text of a `recipe.toml`, `metrics` numbers by name, `source_digest` the digest of the model that
    the artifacts were made from, `verdict` what the evidence says about them. The first artifact is the one that runs
    where none is named. `processing` is how a picture, text or sound becomes inputs, and what an output means.
    """

    name: str
    version: str
    artifacts: tuple[PackedArtifact, ...]
    files: Mapping[str, FileRecord]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    history: tuple[Step, ...] = ()
    recipe: str = ""
    licence: str = ""
    intended_use: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    verdict: str = ""
    source: str = ""
    source_digest: str = ""
    made_by: str = ""
    processing: Processing | None = None


def write_json(value: Header | Manifest) -> bytes:
    """Return the one JSON text of a value: fields and names in a fixed order."""
    fields = msgspec.to_builtins(value, order="deterministic")
    if fields.get("processing", ...) is None:  # so that older versions read a package that has none
        del fields["processing"]
    return msgspec.json.format(msgspec.json.encode(fields), indent=1) + b"\n"


def read_header(data: bytes) -> Header:
    """Read `format.json`. Raises `PackageError` where it is of another format or a newer version."""
    header = _read(data, Header, FORMAT, MAX_HEADER_BYTES)
    if header.format != FORMAT_NAME:
        raise PackageError(f"{FORMAT} speaks of {header.format!r}, expected {FORMAT_NAME!r}")
    if header.version != FORMAT_VERSION:
        raise PackageError(
            f"format version {header.version}; this tightship reads {FORMAT_VERSION}: upgrade it, or pack anew"
        )
    if header.sealed != _is_hex(header.id, _ID_LENGTH):
        expected = f"{_ID_LENGTH} hex digits" if header.sealed else "none, since it is not sealed"
        raise PackageError(f"{FORMAT} has the id {header.id!r}, expected {expected}")
    return header


def read_manifest(data: bytes, sealed: bool) -> Manifest:
    """Read a manifest and check that it is sound in itself. Raises `PackageError`."""
    manifest = _read(data, Manifest, MANIFEST, strict_json.MAX_BYTES)
    if len(manifest.files) > MAX_ENTRIES:
        raise PackageError(f"{len(manifest.files)} files in the manifest; {MAX_ENTRIES} are allowed")
    check_names(sorted(manifest.files))
    for name, record in manifest.files.items():
        _check_record(name, record, sealed)
    if not manifest.artifacts:
        raise PackageError("the manifest names no artifact")
    for artifact in manifest.artifacts:
        below = f"{artifact.path}/"
        if artifact.path not in manifest.files and not any(name.startswith(below) for name in manifest.files):
            raise PackageError(f"artifact {artifact.name!r} is at {artifact.path!r}, where the package has no file")
    if manifest.processing is not None:
        check_packed(manifest.processing, manifest.files)
    return manifest


def _check_record(name: str, record: FileRecord, sealed: bool) -> None:
    if not _is_hex(record.sha256, _SHA256_LENGTH) or not 0 <= record.size < 2**63:
        raise PackageError(f"the manifest gives no size and SHA-256 of {name}")
    if bool(record.entry) != sealed or (sealed and not record.entry.startswith("sealed/")):
        raise PackageError(f"the manifest says that {name} is in entry {record.entry!r}")
    if name.split("/")[0] in (FORMAT, MANIFEST, SIGNATURE, "sealed", "recipients"):
        raise PackageError(f"the manifest lists {name}, a name that the format keeps for itself")


def _read(data: bytes, kind: type[Read], name: str, limit: int) -> Read:
    try:
        value: Any = strict_json.load(data, limit)
        _refuse_unknown(value, kind)
        if kind is Manifest and isinstance(value, dict):
            check_known(value.get("processing"), Processing, "processing.")
        return msgspec.convert(value, kind)
    except (ValueError, msgspec.ValidationError) as error:
        raise PackageError(f"{name} is not what the format says: {str(error)[:300]}") from error


def _refuse_unknown(value: Any, kind: type[Any]) -> None:
    """A field this version does not know may mean something that must not be overlooked."""
    unknown = sorted(set(value) - set(kind.__dataclass_fields__)) if isinstance(value, dict) else []
    if unknown:
        raise ValueError(f"unknown field {unknown[0][:80]!r}")


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and set(text) <= set("0123456789abcdef")
