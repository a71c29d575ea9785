"""Opening packages straight into memory: keys, the artifact to run, models and sessions of it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tightship import engines, formats
from tightship.core import atomic
from tightship.core.artifact import Artifact
from tightship.core.model import Model
from tightship.core.session import Session
from tightship.core.shapes import fix_input_shapes
from tightship.core.target import Target
from tightship.errors import UnsupportedError, UsageError, nearest
from tightship.formats.onnx_memory import read_memory
from tightship.package import Package, PackedArtifact, open_package
from tightship.package.certificates import load_certificates
from tightship.package.keyless import Identity, Sigstore
from tightship.package.keys import PrivateKey, load_passphrase, load_private, load_public
from tightship.package.recipients import Passphrase
from tightship.package.secret_places import read_file
from tightship.package.signing import Trusted

if TYPE_CHECKING:
    from tightship.search import Source

__all__ = ["NO_KEYS", "SUFFIX", "Identity", "Keys", "Sigstore", "is_package", "open_session", "read_packed"]

SUFFIX = ".ship"
MEMORY_FOLDER = Path("/dev/shm")


@dataclass(frozen=True)
class Keys:
    """What opens packages, and whose signature counts.

    `key` is a path, `env:NAME`, `fd:N` or a `pkcs11:` URI; `passphrase` a place of the same kind, which opens that key,
    or the package itself where there is no key. `trust` are paths of public keys, and of roots of certificates;
    `identity` is whose keyless signature counts. With any of these, a package must be signed by one of them.
    """

    key: str | None = None
    passphrase: str | None = None
    trust: tuple[str, ...] = ()
    identity: Identity | None = None

    def opener(self) -> PrivateKey | Passphrase | None:
        """Load what opens a seal."""
        secret = None if self.passphrase is None else load_passphrase(self.passphrase)
        if self.key is not None:
            return load_private(self.key, secret)
        return None if secret is None else Passphrase(secret)

    def trusted(self) -> tuple[Trusted, ...]:
        """Load the keys whose signature counts, the roots that vouch for certificates of signers, and the identity."""
        identity = () if self.identity is None else (self.identity,)
        return (*(entry for path in self.trust for entry in _trusted(path)), *identity)

    def trusting_nobody(self) -> Keys:
        """The same, but that whoever signed, or nobody, is admitted."""
        return replace(self, trust=(), identity=None)

    def open(self, path: str | Path) -> Package:
        """Open a package. Raises `PackageError`, `SignatureError`, `SealError` or `UsageError`."""
        return open_package(path, self.opener(), self.trusted())


def _trusted(path: str) -> tuple[Trusted, ...]:
    if b"BEGIN CERTIFICATE" in read_file(Path(path), "a key or certificates", secret=False):
        return load_certificates(path)
    return (load_public(path),)


NO_KEYS = Keys()


def is_package(source: str | Path) -> bool:
    """Whether `source` is called as packages are."""
    return str(source).lower().endswith(SUFFIX)


def read_packed(
    path: str, keys: Keys = NO_KEYS, shapes: Mapping[str, Sequence[int]] | None = None, name: str = ""
) -> Source:
    """Read a model of a package, the first or the one called `name`, as reading its file would.

    ONNX models are read from memory. Others are put into a folder in memory, and without one that of a sealed package
    is not opened: `UnsupportedError`.
    """
    from tightship.package.packed_source import PackedSource, Source  # they bring the search, which a server leaves out

    with keys.open(path) as package:
        artifact = choose(package, name)
        if artifact.format == "onnx":
            model = replace(_onnx(package, artifact, thorough=True), history=package.manifest.history)
            target = Target(formats.FORMATS["onnx"].engine)
            packed = Artifact(Path(path), artifact.format)
            return PackedSource(packed, fix_input_shapes(model, shapes or {}), package.digest, target)
        folder = _unpacked(package, artifact)
    try:
        found = formats.recognise(str(folder / Path(artifact.path).name))
        source = Source.of(found, fix_input_shapes(*formats.read_shaped(found, shapes or {})))
    except BaseException:
        _remove(folder)
        raise
    weakref.finalize(source.model, _remove, folder)
    return source


def open_session(path: str | Path, engine: str = "", threads: int = 0, keys: Keys = NO_KEYS, name: str = "") -> Session:
    """Open a model of a package, the first or the one called `name`, ready to run; on its own target, or on `engine`.

    Raises what opening a package and an engine raise.
    """
    with keys.open(path) as package:
        artifact = choose(package, name)
        place = Target(engine) if engine else artifact.target
        place = replace(place, threads=threads or place.threads)
        if artifact.format == "onnx":
            return engines.open_session(_onnx(package, artifact, thorough=False), place)
        folder = _unpacked(package, artifact)
    try:
        found = formats.recognise(str(folder / Path(artifact.path).name))
        return engines.open_session(formats.FORMATS[found.format].loadable(found), place)
    finally:
        _remove(folder)


def choose(package: Package, name: str) -> PackedArtifact:
    """Return the artifact called `name`, or the first. Raises `UsageError` naming those that are there."""
    if not name:
        return package.artifacts[0]
    for artifact in package.artifacts:
        if artifact.name == name:
            return artifact
    known = [artifact.name for artifact in package.artifacts]
    raise UsageError(f"{package.path} has no artifact {name!r}{nearest(name, known)}; it has {', '.join(known)}")


def _onnx(package: Package, artifact: PackedArtifact, thorough: bool) -> Model:
    below = f"{artifact.path.rpartition('/')[0]}/"
    files = {
        name.removeprefix(below): package.read(name)
        for name in package.names()
        if name.startswith(below) and name != artifact.path
    }
    return read_memory(package.read(artifact.path), files, thorough)


def _unpacked(package: Package, artifact: PackedArtifact) -> Path:
    """Write an artifact's files to a folder in memory, for libraries that read only files."""
    folder = _folder_for(package)
    try:
        below = f"{artifact.path.rpartition('/')[0]}/"
        for name in package.names():
            if name.startswith(below):
                place = folder / name.removeprefix(below)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(package.read(name))
    except BaseException:
        _remove(folder)
        raise
    return folder


def _folder_for(package: Package) -> Path:
    sealed = package.envelope.sealed
    if _in_memory(MEMORY_FOLDER):
        home = _process_folder()
        if sealed:  # here and in child processes; from now on, since it cannot be known when a library is done with one
            tempfile.tempdir = os.environ["TMPDIR"] = str(home)
        return Path(tempfile.mkdtemp(dir=home))
    if sealed:
        raise UnsupportedError(
            f"{package.path}: this model's format is read from files, and this system has no folder in memory; "
            f"write it to a disk that you trust: tightship open {package.path} -o DIR"
        )
    return Path(tempfile.mkdtemp(prefix="tightship-"))


@cache
def _process_folder() -> Path:
    """A folder in memory of this process, for models of sealed packages and what libraries make of them on their way.

    It is removed at the end, and what a killed process left at the next use by the same user.
    """
    own = MEMORY_FOLDER / f"tightship-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.is_symlink() or own.stat().st_uid != os.getuid() or own.stat().st_mode & 0o077:
        raise UnsupportedError(f"{own} is not a folder of this user alone; remove it")
    atomic.sweep(own)
    folder = Path(tempfile.mkdtemp(prefix=f".tmp-{os.getpid()}-", dir=own))
    atexit.register(_remove, folder)
    return folder


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _in_memory(folder: Path) -> bool:
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.split()[1:3] == [str(folder), "tmpfs"] for line in lines) and os.access(folder, os.W_OK)
