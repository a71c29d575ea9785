"""A server's own copies of what it serves, by content: what a user does with their file changes nothing that is served.

A copy, not a hard link: whoever writes into the file they gave would write into a link too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tightship import formats
from tightship.core import atomic
from tightship.core.artifact import Artifact, file_digest
from tightship.errors import ArtifactNotFound, SignatureError, UsageError
from tightship.package.opening import SUFFIX, Keys, is_package

__all__ = ["Packages", "Stored"]

_BLOCK = 1 << 20
_ORPHAN_S = 3600.0
_UNSPEAKABLE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Stored:
    """A model in the server's own folder: the SHA-256 of what was given, its file there, its name and version."""

    digest: str
    path: Path
    name: str
    version: str
    source: str


class Packages:
    """The folder of copies. `keys` open packages and say whose signature counts."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self._folder = folder
        self._keys = keys
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def accept(self, source: str | Path) -> Stored:
        """Copy a package or a model file and return the copy; one that is there already is not copied again.

        A package's signature and manifest are checked, on the copy; its files are when they are loaded. Raises what
        opening a package raises, and `SignatureError` for a plain file where packages must be signed.
        """
        path = Path(source)
        try:
            if not path.exists():
                raise ArtifactNotFound(f"{path}: no such file on the server's machine; give a path there, or upload it")
            if is_package(path):
                return self._checked(self._take_in(path), str(path))
            return self._accept_plain(formats.recognise(str(path)))
        except OSError as error:
            raise ArtifactNotFound(f"{path} cannot be read by the server: {error.strerror or error}") from error

    def receive(self, blocks: Iterable[bytes], sender: str) -> Stored:
        """Take in the bytes of a package, as `accept` does with a file."""
        return self._checked(self._store(blocks), sender)

    def sweep(self, kept: Iterable[str]) -> int:
        """Remove copies not among `kept` and return how many; new ones may be about to be wanted, and stay."""
        atomic.sweep(self._folder)
        needed = {Path(path).relative_to(self._folder).parts[0] for path in kept if self._folder in Path(path).parents}
        stale = [
            child
            for child in self._folder.iterdir()
            if child.name not in needed and time.time() - child.stat().st_mtime > _ORPHAN_S
        ]
        for child in stale:
            shutil.rmtree(child) if child.is_dir() else child.unlink(missing_ok=True)
        return len(stale)

    def _take_in(self, path: Path) -> str:
        """Copy a package and return its digest; one that is there already is only read."""
        if not path.is_file():
            raise ArtifactNotFound(f"{path} is not a file; a package is one")
        digest = file_digest(path)
        if self._package(digest).exists():
            return digest
        with path.open("rb") as file:
            return self._store(iter(lambda: file.read(_BLOCK), b""))

    def _package(self, digest: str) -> Path:
        return self._folder / f"{digest}{SUFFIX}"

    def _store(self, blocks: Iterable[bytes]) -> str:
        with atomic.folder_beside(self._folder / "incoming") as holder:
            temporary = holder / f"package{SUFFIX}"
            with temporary.open("wb") as file:
                digest = _copy(blocks, file)
            with atomic.writing(self._package(digest)) as place:
                temporary.rename(place)
        return digest

    def _checked(self, digest: str, source: str) -> Stored:
        path = self._package(digest)
        os.utime(path)  # it is about to be wanted: see `sweep`
        try:
            with self._keys.open(path) as package:
                name, version = package.manifest.name, package.manifest.version
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Stored(digest, path, _speakable(name or Path(source).stem), _speakable(version or "1"), source)

    def _accept_plain(self, artifact: Artifact) -> Stored:
        if self._keys.trusted():
            raise SignatureError(
                f"{artifact.path} is not a package and cannot be signed, and this server was told whose signature "
                "counts; pack and sign it (tightship pack)"
            )
        if artifact.entry or artifact.format == "torch-source":
            raise UsageError(f"{artifact.path} is code, which is not served; convert it: tightship convert")
        digest = artifact.digest()
        name = _speakable(artifact.path.stem)
        folder = self._folder / f"{digest}-{name}"  # the same bytes may be served under two names
        if not folder.exists():
            with atomic.writing(folder) as stage:
                _copy_artifact(artifact, stage)
        os.utime(folder)
        return Stored(digest, folder / artifact.path.name, name, "1", str(artifact.path))


def _copy(blocks: Iterable[bytes], file: IO[bytes]) -> str:
    sha256 = hashlib.sha256()
    for block in blocks:
        sha256.update(block)
        file.write(block)
    return sha256.hexdigest()


def _copy_artifact(artifact: Artifact, stage: Path) -> None:
    stage.mkdir()
    if artifact.path.is_dir():
        shutil.copytree(artifact.path, stage / artifact.path.name)
    for file in (() if artifact.path.is_dir() else (artifact.path,)) + artifact.companions:
        place = stage / file.resolve().relative_to(artifact.path.parent.resolve())
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _speakable(name: str) -> str:
    """Return a name that can stand in an address: letters, digits, points, hyphens and underscores."""
    return _UNSPEAKABLE.sub("-", name).strip(".-") or "model"
