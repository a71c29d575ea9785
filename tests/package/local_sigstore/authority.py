"""Fulcio's part: certificates of ten minutes for names, each with the promise of a log of certificates in it.

RFC 6962 (the promise), https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md (the provider's name)
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.package.local_sigstore.log_key import LogKey

SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER_DER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
PRECERTIFICATE, SHA256_ECDSA = 1, b"\x04\x03"
LIFE = timedelta(minutes=10)


def sized(data: bytes, width: int) -> bytes:
    """TLS's vectors: the length, then the bytes."""
    return len(data).to_bytes(width, "big") + data


class Authority:
    """Fulcio: certificates for names that the provider vouches for, each promised to the log of certificates."""

    def __init__(self, provider: str) -> None:
        self.ct = LogKey()
        self._provider = provider
        self._root_key, self._key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
        self.root = self._authority("Test Fulcio Root", self._root_key, None, self._root_key)
        self.between = self._authority("Test Fulcio", self._key, self.root, self._root_key)

    def certificate(self, name: str, public: Any, age: timedelta = timedelta()) -> x509.Certificate:
        """A certificate for `name`, with the promise of the log that it will be in it."""
        started = datetime.now(UTC).replace(microsecond=0) - age
        builder = self._builder(name, public, started)
        tbs = builder.sign(self._key, SHA256()).tbs_certificate_bytes
        content = b"\x04" + self._der_size(listed := sized(sized(self._promise(tbs, started), 2), 2)) + listed
        return builder.add_extension(x509.UnrecognizedExtension(SCT_LIST, content), critical=False).sign(
            self._key, SHA256()
        )

    def timestamper(self, public: Any) -> x509.Certificate:
        """A certificate under the root for who says when something was signed (RFC 3161)."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Timestamps")])
        started, serial = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1), x509.random_serial_number()
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._root_key.public_key())
        return (
            x509.CertificateBuilder(self.root.subject, name, public, serial, started, started + timedelta(days=1))
            .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._root_key, SHA256())
        )

    def _builder(self, name: str, public: Any, started: datetime) -> x509.CertificateBuilder:
        named = x509.RFC822Name(name) if "@" in name else x509.UniformResourceIdentifier(name)
        provider = self._provider.encode()
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.KeyUsage(True, False, False, False, False, False, False, False, False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
            (x509.SubjectKeyIdentifier.from_public_key(public), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
            (x509.SubjectAlternativeName([named]), True),
            (x509.UnrecognizedExtension(ISSUER, provider), False),
            (x509.UnrecognizedExtension(ISSUER_DER, b"\x0c" + self._der_size(provider) + provider), False),
        ]
        serial, ended = x509.random_serial_number(), started + LIFE
        builder = x509.CertificateBuilder(self.between.subject, x509.Name([]), public, serial, started, ended)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder

    def _promise(self, tbs: bytes, when: datetime) -> bytes:
        """A signed certificate timestamp: RFC 6962, section 3.2, of a precertificate."""
        ms = int(when.timestamp() * 1000).to_bytes(8, "big")
        spki = self.between.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        entry = PRECERTIFICATE.to_bytes(2, "big") + hashlib.sha256(spki).digest() + sized(tbs, 3)
        signature = self.ct.sign(b"\0\0" + ms + entry + sized(b"", 2))
        return b"\0" + self.ct.id + ms + sized(b"", 2) + SHA256_ECDSA + sized(signature, 2)

    @staticmethod
    def _der_size(data: bytes) -> bytes:
        return bytes([len(data)]) if len(data) < 0x80 else bytes([0x81, len(data)])

    @staticmethod
    def _authority(name: str, key: Any, issuer: x509.Certificate | None, issuer_key: Any) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        started = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
        public = key.public_key()
        return (
            x509.CertificateBuilder(issuer.subject if issuer else subject, subject, public, x509.random_serial_number())
            .not_valid_before(started)
            .not_valid_after(started + timedelta(days=30))
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .sign(issuer_key, SHA256())
        )
