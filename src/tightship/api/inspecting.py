"""`inspect`: what is in a model or a package, and what looks risky."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tightship.api import loading
from tightship.errors import TightshipError
from tightship.measure.describe import Description, describe
from tightship.package import Manifest, opening
from tightship.package.envelope import Envelope
from tightship.package.opening import NO_KEYS, Keys
from tightship.package.signing import Signer, claim, signer_hint

__all__ = ["PackageDescription", "inspect", "inspect_package"]


@dataclass(frozen=True)
class PackageDescription:
    """What a package is: who can open it (key ids), the key that its signature names, and what is in it.

    `claimed` is whom a keyless signature names, where nothing of that was checked, in place of a key.
    `signer` is who signed it where keys were trusted. `manifest` and `model` are None where it is sealed and no key
    was given; `model` also where its format cannot be read into a form, for the reason in `not_read`.
    """

    path: str
    size_bytes: int
    sealed: bool
    recipients: tuple[str, ...]
    signed_by: str
    signer: Signer | None
    manifest: Manifest | None
    model: Description | None
    not_read: str = ""
    claimed: str = ""


def inspect(model: str | Path, weights: Path | None = None, keys: Keys = NO_KEYS) -> Description | PackageDescription:
    """Read a model and describe it: inputs, outputs, operators, parameters, bytes, multiply-accumulates, risks.

    Of a package it says also who can open it, who signed it, and what its manifest holds.
    """
    if opening.is_package(model):
        return inspect_package(model, keys)
    source = loading.read(str(model), weights)
    return describe(source.model, source.artifact)


def inspect_package(path: str | Path, keys: Keys = NO_KEYS) -> PackageDescription:
    """Describe a package from outside, and from inside where it is not sealed or `keys` open it."""
    with Envelope(Path(path)) as envelope:
        wrapped = envelope.recipients.recipients if envelope.sealed else ()
        recipients = tuple(entry.key_id or "passphrase" for entry in wrapped)
        claimed = claim(envelope.signature) if envelope.signed else None
        found = PackageDescription(
            str(path),
            envelope.archive.size,
            envelope.sealed,
            recipients,
            signer_hint(envelope.signature) or "unknown" if envelope.signed and claimed is None else "",
            None,
            None,
            None,
            claimed="" if claimed is None else str(claimed),
        )
        if found.sealed and (trusted := keys.trusted()):
            found = replace(found, signer=envelope.check_signature(trusted))
    if found.sealed and keys.opener() is None:
        return found
    with keys.open(path) as package:
        manifest, signer = package.manifest, package.signer
    try:
        source = opening.read_packed(str(path), keys)
        model, not_read = describe(source.model, source.artifact), ""
    except TightshipError as error:
        model, not_read = None, str(error)
    return replace(found, signer=signer, manifest=manifest, model=model, not_read=not_read)
