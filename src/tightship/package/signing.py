"""Who vouches for a package: a DSSE signature over the digests of its files, in a Sigstore bundle.

With an EC P-256 key the bundle is one of OpenSSF Model Signing, which that project's own tool checks; Ed25519 and
RSA-PSS sign the same statement in the same envelope. The trusted key tells the algorithm, never the bundle. Keyless
signatures are made and checked by Sigstore (`keyless`).
https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md, https://docs.sigstore.dev/about/bundle/
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from tightship.core import extras
from tightship.errors import SignatureError
from tightship.package import keyless, strict_json
from tightship.package.keyless import Claim, Identity, Keyless
from tightship.package.kinds import PrivateKey, PublicKey
from tightship.package.statement import PAYLOAD_TYPE, compare, read_statement, write_statement

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["BUNDLE_TYPE", "Signer", "SigningKey", "Trusted", "claim", "key_hint", "sign", "signer_hint", "verify"]

Trusted: TypeAlias = Union[PublicKey, "Certificate", Identity]
"""Whose signature counts: a key, a root that vouches for certificates of signers, or an identity at a provider."""

SigningKey: TypeAlias = PrivateKey | Keyless
"""What signs: a key, or Sigstore."""

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SALT_BYTES = 32
_MATERIALS = ("publicKey", "x509CertificateChain", "certificate")


@dataclass(frozen=True)
class Signer:
    """Whose signature held: the trusted key that checked it, and the name that the model was signed under.

    `subject` is the name in the certificate, where one led to the key. A keyless signature is of kind `sigstore` and
    has no key id, since its key was used once; `provider` is who vouched for the subject.
    """

    kind: str
    key_id: str
    name: str
    subject: str | None = None
    provider: str | None = None


@dataclass(frozen=True)
class Envelope:
    """What a bundle holds: the signed bytes, the signature, and what says whose it is."""

    payload: bytes
    signature: bytes
    material: Mapping[str, Any]


def sign(digests: Mapping[str, str], name: str, key: SigningKey, certificates: Sequence[Certificate] = ()) -> bytes:
    """Sign the SHA-256 (hex) of files by POSIX path, under the name of the model; return the bundle as JSON.

    With `certificates` (the signer's, then those between it and the root) receivers trust a root instead of a key.
    """
    if isinstance(key, Keyless):
        return keyless.sign_statement(write_statement(digests, name), key)
    key.public.check_signs()
    payload = write_statement(digests, name)
    signature = _sign(key, _pae(payload))
    if certificates:
        from tightship.package.certificates import chain_material

        material = chain_material(certificates, key)
    else:
        material = {"publicKey": {"hint": key_hint(key.public)}, "tlogEntries": []}
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": material,
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, separators=(",", ":")).encode()


def verify(bundle: bytes, digests: Mapping[str, str], trusted: Sequence[Trusted]) -> Signer:
    """Check that one of the `trusted` keys or identities, or a certificate under a root, signed exactly these digests.

    Raises `SignatureError` saying what was expected and found: no signature, a malformed one, one that is not trusted,
    one that does not hold, or files that were changed, added or removed.
    """
    if not bundle:
        raise SignatureError("there is no signature; expected one by a trusted key. Ask the sender to sign")
    envelope = _read(bundle)
    keys = [entry for entry in trusted if isinstance(entry, PublicKey)]
    identities = [entry for entry in trusted if isinstance(entry, Identity)]
    if "certificate" in envelope.material:
        return _keyless(bundle, envelope, digests, identities)
    if "x509CertificateChain" in envelope.material:
        from tightship.package.certificates import trusted_key

        roots = [entry for entry in trusted if not isinstance(entry, PublicKey | Identity)]
        key, subject = trusted_key(envelope.material, roots)
    else:
        key, subject = _trusted(envelope, keys), None
    if not _holds(key, envelope.signature, _pae(envelope.payload)):
        raise SignatureError(
            f"the signature does not hold under the trusted key {key.id[:16]}: it was changed or forged"
        )
    name, signed = read_statement(envelope.payload)
    compare(signed, digests)
    return Signer(key.kind, key.id, name, subject)


def claim(bundle: bytes) -> Claim | None:
    """Who a keyless bundle says signed it, unchecked; None where it is signed by a key or under a root."""
    material = _read(bundle).material
    return keyless.claim(material) if "certificate" in material else None


def signer_hint(bundle: bytes) -> str:
    """Whose key a bundle says it was signed with (see `key_hint`), unchecked; empty where it names none."""
    return _hint(_read(bundle))


def key_hint(key: PublicKey) -> str:
    """How a bundle names a key: the SHA-256 of its PEM, in hex, as model-signing does."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _keyless(bundle: bytes, envelope: Envelope, digests: Mapping[str, str], identities: Sequence[Identity]) -> Signer:
    """Check a keyless bundle against each identity; where none fits, the reasons are told."""
    claimed = keyless.claim(envelope.material)
    if not identities:
        raise SignatureError(
            f"the signature is keyless, by {claimed}; "
            "say whose you expect: --identity NAME --identity-provider URL, each as you know it from elsewhere"
        )
    reasons = []
    for identity in identities:
        try:
            payload = keyless.verified(bundle, identity)
        except SignatureError as error:
            reasons.append(str(error))
            continue
        name, signed = read_statement(payload)
        compare(signed, digests)
        return Signer("sigstore", "", name, identity.name, identity.provider)
    raise SignatureError(f"{'; '.join(reasons)}; the signature is by {claimed}")


def _trusted(envelope: Envelope, trusted: Sequence[PublicKey]) -> PublicKey:
    """The trusted key that the bundle names, or the one that fits where it names none, as model-signing allowed."""
    for key in trusted:
        key.check_signs()
    hint = _hint(envelope)
    for key in trusted:
        if key_hint(key) == hint or (not hint and _holds(key, envelope.signature, _pae(envelope.payload))):
            return key
    expected = ", ".join(key_hint(key)[:16] for key in trusted) or "none: name a key with --trust NAME.pub"
    raise SignatureError(
        f"the signature is by a key that is not trusted: its PEM has SHA-256 {hint[:16] or '(not told)'}; "
        f"trusted: {expected}"
    )


def _hint(envelope: Envelope) -> str:
    public = envelope.material.get("publicKey")
    return str(public.get("hint") or "") if isinstance(public, dict) else ""


def _read(bundle: bytes) -> Envelope:
    """Take a bundle apart. Only what `sign` and model-signing write is read: one signature over one payload."""
    try:
        document = strict_json.load(bundle)
        if document["mediaType"] != BUNDLE_TYPE:
            raise ValueError(f"its media type is {str(document['mediaType'])[:80]!r}, expected {BUNDLE_TYPE!r}")
        envelope = document["dsseEnvelope"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"its payload is {str(envelope['payloadType'])[:80]!r}, expected {PAYLOAD_TYPE!r}")
        if len(envelope["signatures"]) != 1:
            raise ValueError(f"it holds {len(envelope['signatures'])} signatures, expected 1")
        material = document["verificationMaterial"]
        if not isinstance(material, dict):
            raise ValueError("its verification material is not an object")
        if sum(name in material for name in _MATERIALS) > 1:
            raise ValueError("it says in two ways who signed")
        return Envelope(
            base64.b64decode(envelope["payload"], validate=True),
            base64.b64decode(envelope["signatures"][0]["sig"], validate=True),
            material,
        )
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise SignatureError(f"the signature is not a Sigstore bundle with a DSSE envelope: {what}") from error


def _pae(payload: bytes) -> bytes:
    """What DSSE signs: type and payload with their lengths."""
    return b"DSSEv1 %d %s %d " % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload)) + payload


def _algorithm(kind: str) -> tuple[Any, ...]:
    """What follows the message in `sign` and `verify` of `cryptography` for a kind of key."""
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.hashes import SHA256

    if kind == "ec-p256":
        return (ec.ECDSA(SHA256()),)
    if kind.startswith("rsa"):
        return (padding.PSS(padding.MGF1(SHA256()), SALT_BYTES), SHA256())
    return ()


def _sign(key: PrivateKey, message: bytes) -> bytes:
    extras.check("cryptography", "signing")
    signature: bytes = key.secret.sign(message, *_algorithm(key.kind))
    return signature


def _holds(key: PublicKey, signature: bytes, message: bytes) -> bool:
    extras.check("cryptography", "checking a signature")
    from cryptography.exceptions import InvalidSignature

    try:
        key.key.verify(signature, message, *_algorithm(key.kind))
    except InvalidSignature:
        return False
    return True
