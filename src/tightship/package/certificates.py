"""Signers told by X.509 certificates: the bundle carries the chain, the receiver trusts its root.

As model-signing does, the chain is checked at the moment from which the signer's certificate is valid: without a
trusted timestamp nothing says when a model was signed, and expiry and revocation are not looked at.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightship.core import extras
from tightship.errors import SignatureError, UsageError
from tightship.package.kinds import PrivateKey, PublicKey, kind_of
from tightship.package.secret_places import read_file

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["chain_material", "load_certificates", "trusted_key"]

MAX_CHAIN = 8


def load_certificates(path: str | Path) -> tuple[Certificate, ...]:
    """The certificates of a PEM file, in its order. Raises `UsageError` where there are none."""
    extras.check("cryptography", "reading certificates")
    from cryptography import x509

    try:
        return tuple(x509.load_pem_x509_certificates(read_file(Path(path), "certificates", secret=False)))
    except ValueError as error:
        raise UsageError(f"{path} holds no PEM certificates that can be read: {error}") from error


def chain_material(certificates: Sequence[Certificate], key: PrivateKey) -> dict[str, Any]:
    """The verification material of a bundle: the signer's certificate, then those between it and the root."""
    from cryptography.hazmat.primitives.serialization import Encoding

    leaf = certificates[0].public_key()
    if PublicKey(kind_of(leaf), leaf) != key.public:
        raise UsageError("the first certificate is not for the key that signs; give the signer's own first")
    chain = [{"rawBytes": base64.b64encode(entry.public_bytes(Encoding.DER)).decode()} for entry in certificates]
    return {"x509CertificateChain": {"certificates": chain}, "tlogEntries": []}


def trusted_key(material: Mapping[str, Any], roots: Sequence[Certificate]) -> tuple[PublicKey, str]:
    """The key of the signer's certificate, and the name in it, where one of `roots` vouches for it.

    Raises `SignatureError` where none does, or where the certificate is not for signing.
    """
    if not roots:
        raise SignatureError(
            "the signature is by a certificate, and no root is trusted; name one with --trust ROOT.pem"
        )
    try:
        return _vouched(_chain(material), roots)
    except SignatureError:
        raise
    except Exception as error:  # parts of a certificate are parsed when first used; what that raises has no one type
        raise SignatureError(f"a certificate in the signature cannot be read: {error}") from error


def _vouched(chain: list[Certificate], roots: Sequence[Certificate]) -> tuple[PublicKey, str]:
    leaf, *between = chain
    name, key = leaf.subject.rfc4514_string(), leaf.public_key()
    _check_chain(leaf, between, roots)
    _check_signs(leaf)
    public = PublicKey(kind_of(key), key)
    public.check_signs()
    return public, name


def _chain(material: Mapping[str, Any]) -> list[Certificate]:
    from cryptography import x509

    entries = material["x509CertificateChain"]["certificates"]
    if not 1 <= len(entries) <= MAX_CHAIN:
        raise SignatureError(f"the signature holds {len(entries)} certificates, expected 1 to {MAX_CHAIN}")
    encoded = [base64.b64decode(entry["rawBytes"], validate=True) for entry in entries]
    chain = [x509.load_der_x509_certificate(der) for der in encoded]
    for der, certificate in zip(encoded, chain, strict=True):
        # A BIT STRING may declare that its last bits are unused, and the parser looks past it; signatures are whole
        # bytes (RFC 5480, RFC 8017), and one certificate has one encoding.
        if not der.endswith(b"\0" + certificate.signature):
            raise SignatureError(f"the certificate of {certificate.subject.rfc4514_string()} is not encoded in DER")
    return chain


def _check_chain(leaf: Certificate, between: list[Certificate], roots: Sequence[Certificate]) -> None:
    from cryptography.x509 import verification

    policy = (
        verification.PolicyBuilder()
        .store(verification.Store(list(roots)))
        .time(leaf.not_valid_before_utc)
        .max_chain_depth(MAX_CHAIN)
        .extension_policies(
            ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
            ee_policy=verification.ExtensionPolicy.permit_all(),
        )
    )
    try:
        policy.build_client_verifier().verify(leaf, between)
    except verification.VerificationError as error:
        trusted = ", ".join(root.subject.rfc4514_string() for root in roots)
        raise SignatureError(
            f"the certificate of {leaf.subject.rfc4514_string()} does not lead to a trusted root ({trusted}): {error}"
        ) from error


def _check_signs(leaf: Certificate) -> None:
    """Its key usage must allow signatures, or its extended one signing code, as model-signing asks."""
    from cryptography import x509

    usages = {type(entry.value): entry.value for entry in leaf.extensions}
    usage, extended = usages.get(x509.KeyUsage), usages.get(x509.ExtendedKeyUsage)
    signs = isinstance(usage, x509.KeyUsage) and usage.digital_signature
    code = isinstance(extended, x509.ExtendedKeyUsage) and x509.oid.ExtendedKeyUsageOID.CODE_SIGNING in extended
    if not signs and not code:
        raise SignatureError(
            f"the certificate of {leaf.subject.rfc4514_string()} is not for signing; "
            "expected digitalSignature or codeSigning in its key usage"
        )
