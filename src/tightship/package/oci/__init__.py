"""Packages in registries: pushed and pulled as one blob, under the manifest of the CNCF ModelPack specification.

A package is an opaque file here: digests and sizes are checked, what is in it is not looked at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import platformdirs

from tightship.core import atomic
from tightship.core.progress import SILENT, Progress
from tightship.errors import ArtifactNotFound, RegistryError, UsageError
from tightship.package.modelpack import (
    MANIFEST_MEDIA_TYPE,
    Content,
    Descriptor,
    digest_of,
    parse_manifest,
    write_manifest,
)
from tightship.package.oci.access import Access
from tightship.package.oci.connection import Connection
from tightship.package.oci.download import fetch
from tightship.package.oci.reference import DIGEST, Reference
from tightship.package.oci.upload import upload_bytes, upload_file

__all__ = ["Access", "Pulled", "Pushed", "Reference", "pull", "push"]

BLOCK = 1 << 20


@dataclass(frozen=True)
class Pushed:
    """`digest` is that of the manifest, and `pinned` the place by it; `sent_bytes` were not there yet."""

    reference: str
    digest: str
    pinned: str
    package: str
    package_digest: str
    size_bytes: int
    sent_bytes: int


@dataclass(frozen=True)
class Pulled:
    """`digest` is that of the manifest, and `pinned` the place by it; `resumed_bytes` were left by an earlier pull."""

    reference: str
    digest: str
    pinned: str
    package: str
    package_digest: str
    size_bytes: int
    resumed_bytes: int


def push(
    package: Path,
    place: str,
    access: Access | None = None,
    state: Path | None = None,
    progress: Progress = SILENT,
) -> Pushed:
    """Push a package file to `oci://host/repository:tag` and return the digest of its manifest.

    `state` is the folder that keeps where uploads stand; by default one in the user's cache.
    Raises `UsageError`, `ArtifactNotFound`, and `RegistryError` where the registry refuses or cannot be reached.
    """
    reference = Reference.parse(place)
    if reference.digest:
        raise UsageError(f"{place}: a digest is what a push gives; push to a tag")
    if not package.is_file():
        raise ArtifactNotFound(f"{package}: no such file; expected a package to push")
    folder = state or Path(platformdirs.user_cache_dir("tightship")) / "uploads"
    with package.open("rb") as file:
        connection = Connection(reference, access or Access())
        layer = _described(file, package, progress)
        with progress.step(f"pushing {package.name}", layer.size) as advance:
            sent = upload_file(connection, file, layer, folder, advance).sent_bytes
    manifest, config = write_manifest(package.name, layer)
    upload_bytes(connection, config, Descriptor(digest_of(config), len(config)))
    digest = _put_manifest(connection, manifest)
    return Pushed(
        str(reference), digest, reference.pinned(digest), str(package), layer.digest, layer.size, sent_bytes=sent
    )


def pull(
    place: str,
    output: Path,
    digest: str = "",
    access: Access | None = None,
    progress: Progress = SILENT,
) -> Pulled:
    """Pull a package from `oci://host/repository[:tag|@digest]` to the file `output`.

    `digest` pins the manifest as a digest in `place` does. The file appears whole, with digest and size as the manifest
    says, or not at all; what a pull that was killed has left is gone on with.
    Raises `UsageError`, `RegistryError`, and `OutputError` where the file cannot be written.
    """
    reference = Reference.parse(place)
    pinned = _pin(reference, digest)
    atomic.check_writable(output, None)
    connection = Connection(reference, access or Access())
    found, content = _get_manifest(connection, pinned)
    with progress.step(f"pulling {output.name}", content.layer.size) as advance:
        resumed = fetch(connection, content.layer, output, advance)
    layer = content.layer
    return Pulled(
        str(reference), found, reference.pinned(found), str(output), layer.digest, layer.size, resumed_bytes=resumed
    )


def _described(file: BinaryIO, package: Path, progress: Progress) -> Descriptor:
    size = package.stat().st_size
    digest, n_read = hashlib.sha256(), 0
    with progress.step(f"digest of {package.name}", size) as advance:
        while block := file.read(BLOCK):
            digest.update(block)
            n_read += len(block)
            advance(len(block))
    return Descriptor(f"sha256:{digest.hexdigest()}", n_read)


def _put_manifest(connection: Connection, manifest: bytes) -> str:
    digest = digest_of(manifest)
    url = connection.url("manifests", connection.reference.tag)
    response = connection.send("PUT", url, manifest, {"Content-Type": MANIFEST_MEDIA_TYPE})
    if response.status_code != 201:
        raise connection.refusal(response, "storing the manifest")
    told = response.headers.get("Docker-Content-Digest", digest)
    if told != digest:
        raise RegistryError(f"{connection.reference}: manifest {digest} was sent, the registry stored {told[:80]!r}")
    return digest


def _pin(reference: Reference, digest: str) -> str:
    if digest and not DIGEST.fullmatch(digest):
        raise UsageError(f"--digest {digest!r}: expected sha256: and 64 hex digits, as push prints them")
    if digest and reference.digest and digest != reference.digest:
        raise UsageError(f"{reference} and --digest {digest} name two digests; give one of them")
    return digest or reference.digest


def _get_manifest(connection: Connection, pinned: str) -> tuple[str, Content]:
    """Fetch the manifest by its digest, else by its tag, and check it before anything else is asked for."""
    place = str(connection.reference)
    url = connection.url("manifests", pinned or connection.reference.tag)
    response = connection.get(url, {"Accept": MANIFEST_MEDIA_TYPE})
    if response.status_code != 200:
        raise connection.refusal(response, "the manifest")
    found = digest_of(response.content)
    wanted = pinned or response.headers.get("Docker-Content-Digest", found)
    if found != wanted:
        raise RegistryError(f"{place}: expected the manifest {wanted[:80]}, the registry sends {found}; refused")
    return found, parse_manifest(response.content, response.headers.get("Content-Type", ""), place)
