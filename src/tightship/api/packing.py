"""`pack`, `unpack`, `verify`, `rekey`, `sign`, `diff`: packages from writing to reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tightship.core import atomic
from tightship.core.progress import SILENT, Progress
from tightship.errors import UsageError
from tightship.package import Manifest, recipient_slots
from tightship.package.assembly import sign_package, write_package
from tightship.package.bom import bill_of_materials
from tightship.package.certificates import load_certificates
from tightship.package.contents import gather
from tightship.package.declaring import ProcessingFiles
from tightship.package.differences import Difference, differences
from tightship.package.envelope import Envelope
from tightship.package.keyless import Keyless
from tightship.package.keys import PublicKey, load_passphrase, load_private, load_public
from tightship.package.manifest import BOM, SIGNATURE
from tightship.package.opening import NO_KEYS, Keys
from tightship.package.recipients import Passphrase, unwrap, wrap
from tightship.package.signing import Signer, SigningKey, claim

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = [
    "Keyless",
    "Packed",
    "ProcessingFiles",
    "Unpacked",
    "Verification",
    "diff",
    "pack",
    "rekey",
    "sign",
    "unpack",
    "verify",
]

OURS = frozenset({"artifacts", "evidence", "format.json", "manifest.json", "processing", "report.html", BOM, SIGNATURE})
NO_PROCESSING = ProcessingFiles()


@dataclass(frozen=True)
class Packed:
    """A package that was written or changed: its manifest, who can open it (key ids), and notes for the reader.

    `manifest` is None where it is sealed and was not opened.
    """

    path: str
    size_bytes: int
    sealed: bool
    signed: bool
    recipients: tuple[str, ...] = ()
    manifest: Manifest | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unpacked:
    """Files that were written from a package; `signer` is whose signature was checked."""

    path: str
    folder: str
    files: tuple[str, ...]
    signer: Signer | None


@dataclass(frozen=True)
class Verification:
    """What was checked of a package. `files` is how many were compared with their digests.

    `digest` is the SHA-256 of its manifest, which stands for all of it, empty where that was not opened. `signer` is
    the trusted key that signed it, None where none was named; `sealed_only` says that it was not opened, so that its
    signature was checked over what is sealed.
    """

    path: str
    digest: str
    sealed: bool
    signed: bool
    signer: Signer | None
    files: int
    sealed_only: bool
    notes: tuple[str, ...] = ()


def pack(
    models: Sequence[str | Path],
    output: str | Path,
    name: str = "",
    version: str = "1",
    licence: str = "",
    intended_use: str = "",
    sign_with: str | Keyless | None = None,
    seal_to: Sequence[str | Path] = (),
    passphrase: str | None = None,
    key_passphrase: str | None = None,
    progress: Progress = SILENT,
    certificates: str | Path | None = None,
    processing: ProcessingFiles = NO_PROCESSING,
) -> Packed:
    """Write one file that holds the models (one or more, for different targets), their evidence and a manifest.

    `models` are paths, or folders that `optimize` wrote. `sign_with` names a private key, and `key_passphrase` where
    its passphrase is, or is how to sign through Sigstore; `certificates` as in `sign`. `seal_to` are public keys of
    those who may open it, and `passphrase` where a passphrase is that opens it too. `processing` says how pictures,
    texts or sounds become inputs, and what the outputs mean. The same inputs give the same
    bytes unless it is sealed or signed with randomness.
    """
    place = Path(output)
    _check_output(place, [Path(model) for model in models])
    contents = gather([str(model) for model in models], name or place.stem, version, licence, intended_use)
    declared, beside = processing.load(contents.manifest.inputs, contents.manifest.outputs)
    described = replace(contents.manifest, processing=declared)
    receivers = _receivers(seal_to, passphrase)
    signer, chain = _signer(sign_with, key_passphrase, certificates)
    with progress.step("packing"):
        manifest = write_package(
            place,
            described,
            {**contents.files, **beside},
            receivers,
            signer,
            finish=lambda files: {BOM: bill_of_materials(described, files)},
            certificates=chain,
        )
    ids = tuple(map(_id_of, receivers))
    size = place.stat().st_size
    return Packed(str(place), size, bool(receivers), signer is not None, ids, manifest, contents.notes)


def unpack(path: str | Path, folder: str | Path, keys: Keys = NO_KEYS) -> Unpacked:
    """Write every file of a package, checked, into a folder, all or none.

    An existing folder is replaced if it holds only what packages hold, else `OutputError` is raised.
    """
    place = Path(folder)
    with keys.open(path) as package, atomic.replace_folder(place, OURS) as stage:
        for name in package.names():
            file = stage / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(package.read(name))
        for name, content in package.documents().items():
            (stage / name).write_bytes(content)
        return Unpacked(str(path), str(place), package.names(), package.signer)


def verify(path: str | Path, keys: Keys = NO_KEYS) -> Verification:
    """Check the signature, where keys are trusted, and the digest of every file.

    A sealed package that is signed needs no key: the signature is over what is sealed. One that is signed without a key
    (Sigstore) is refused where nobody is expected, since it says a name.
    Raises `PackageError`, `SignatureError`, the uniform `SealError`, or `UsageError` where nothing could be checked.
    """
    with Envelope(Path(path)) as envelope:
        opener, trusted = keys.opener(), keys.trusted()
        if envelope.signed and not trusted and claim(envelope.signature) is not None:
            envelope.check_signature(())  # it says a name, which must not look as if it were checked
        if envelope.sealed and opener is None:
            if not trusted:
                raise UsageError(
                    f"{path} is sealed: without a key only its signature can be checked; "
                    "give --trust NAME.pub, --identity or --key"
                )
            signer = envelope.check_signature(trusted)
            n_entries = len(envelope.signed_names)
            return Verification(str(path), "", True, True, signer, n_entries, True)
    with keys.open(path) as package:
        for name in package.names():
            package.check(name)
        signed = package.envelope.signed
        notes = (
            ("it is signed, but by whom was not checked: name a key with --trust",) if signed and not trusted else ()
        )
        sealed, n_files = package.envelope.sealed, len(package.names())
        return Verification(str(path), package.digest, sealed, signed, package.signer, n_files, False, notes)


def rekey(
    path: str | Path,
    keys: Keys,
    seal_to: Sequence[str | Path],
    passphrase: str | None = None,
) -> Packed:
    """Make `seal_to`, and the passphrase at `passphrase`, the receivers of a sealed package, in place of those it has.

    The payload is not touched, so who could open it before and kept the data key still can: to take that away, open it
    and pack it anew. Raises the uniform `SealError` where the key does not open it.
    """
    receivers = _receivers(seal_to, passphrase)
    opener = keys.opener()
    if not receivers or opener is None:
        raise UsageError("rekey needs a key that opens the package (--key) and at least one receiver (--seal NAME.pub)")
    with Envelope(Path(path)) as envelope:
        if not envelope.sealed:
            raise UsageError(f"{path} is not sealed; pack it with --seal NAME.pub")
        if trusted := keys.trusted():
            envelope.check_signature(trusted)
        context = envelope.header.context
        data_key = unwrap(envelope.recipients.recipients, context, opener)
        recipient_slots.rewrite(envelope.archive, wrap(data_key, context, receivers))
        return Packed(str(path), envelope.archive.size, True, envelope.signed, tuple(map(_id_of, receivers)))


def sign(
    path: str | Path,
    key: str | Keyless,
    passphrase: str | None = None,
    keys: Keys = NO_KEYS,
    certificates: str | Path | None = None,
) -> Packed:
    """Sign a package, in place of the signature that it has; of a sealed one what is sealed is signed, unopened.

    Every digest is checked first where it can be opened, so that nothing damaged is signed. `key` names a private key,
    or is how to sign through Sigstore. `certificates` is a PEM file of the signer's certificate and those between it
    and a root: who trusts the root then needs no key.
    """
    signer, chain = _signer(key, passphrase, certificates)
    if signer is None:
        raise UsageError("nothing to sign with: name a key (--with NAME.key), or sign through Sigstore (--sigstore)")

    def check(copy: Path) -> str:
        with Envelope(copy) as envelope:
            name = envelope.header.id
        if name and keys.opener() is None:
            return name
        with keys.trusting_nobody().open(copy) as package:
            for file in package.names():
                package.check(file)
            return name or package.manifest.name

    sign_package(Path(path), signer, check, chain)
    with Envelope(Path(path)) as envelope:
        return Packed(str(path), envelope.archive.size, envelope.sealed, True)


def diff(first: str | Path, second: str | Path, keys: Keys = NO_KEYS) -> tuple[Difference, ...]:
    """Say what differs between two packages: fields of their manifests, metrics, files."""
    with keys.open(first) as one, keys.open(second) as other:
        return differences(one, other)


def _check_output(place: Path, models: Sequence[Path]) -> None:
    if place.suffix.lower() != ".ship":
        raise UsageError(f"{place}: a package ends in .ship; expected for instance {place.with_suffix('.ship')}")
    for model in models:
        if place.resolve().is_relative_to(model.resolve()):
            raise UsageError(f"the output {place} lies in {model}, which is packed; choose another place")
    atomic.check_writable(place, None)


def _signer(
    key: str | Keyless | None, passphrase: str | None, certificates: str | Path | None
) -> tuple[SigningKey | None, tuple[Certificate, ...]]:
    """Load what signs, and the certificates of a signer; both before anything is written."""
    if certificates is not None and not isinstance(key, str):
        raise UsageError("certificates are of a key; name the key that signs, too (Sigstore makes its own)")
    if isinstance(key, Keyless):
        return key.ready(), ()
    chain = () if certificates is None else load_certificates(certificates)
    return (load_private(key, _secret(passphrase)) if key else None), chain


def _receivers(seal_to: Sequence[str | Path], passphrase: str | None) -> tuple[PublicKey | Passphrase, ...]:
    secret = _secret(passphrase)
    return (*(load_public(path) for path in seal_to), *((Passphrase(secret),) if secret else ()))


def _secret(where: str | None) -> bytes | None:
    return None if where is None else load_passphrase(where)


def _id_of(receiver: PublicKey | Passphrase) -> str:
    return "passphrase" if isinstance(receiver, Passphrase) else receiver.id
