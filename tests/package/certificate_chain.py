"""A root, a certificate under it, and a signer's certificate under that, made for a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.package.key_pairs import key

NOW = datetime.now(UTC).replace(microsecond=0)


def certificate(
    name: str,
    public: Any,
    issuer: x509.Certificate | None,
    issuer_key: Any,
    ca: bool,
    signs: bool = True,
    days: int = 30,
) -> x509.Certificate:
    """A certificate for `public`, by `issuer` or by itself; `days` below zero make one that is past."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    started = NOW - timedelta(days=1) if days > 0 else NOW + timedelta(days=days - 1)
    usage = x509.KeyUsage(signs, False, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder(issuer.subject if issuer else subject, subject, public, x509.random_serial_number())
        .not_valid_before(started)
        .not_valid_after(started + timedelta(days=abs(days)))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not ca and signs:
        usage_of_code = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        builder = builder.add_extension(usage_of_code, critical=False)
    return builder.sign(issuer_key, SHA256())


class Chain:
    """`root` signs `between`, which signs the certificate of the ec-p256 key under test."""

    def __init__(self, signs: bool = True, days: int = 30) -> None:
        root_key, between_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.root = certificate("Test Root", root_key.public_key(), None, root_key, ca=True)
        self.between = certificate("Test Between", between_key.public_key(), self.root, root_key, ca=True)
        signer = key("ec-p256").public.key
        self.signer = certificate("Test Signer", signer, self.between, between_key, False, signs, days)
        self.chain = (self.signer, self.between)
