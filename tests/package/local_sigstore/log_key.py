"""The key of a transparency log, and the two encodings that everything here shares."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class LogKey:
    """The key of a log, and its id."""

    def __init__(self) -> None:
        self.secret = ec.generate_private_key(ec.SECP256R1())
        self.spki = self.secret.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.id = hashlib.sha256(self.spki).digest()

    def sign(self, data: bytes) -> bytes:
        return self.secret.sign(data, ec.ECDSA(SHA256()))

    def trusted(self, url: str, since: str) -> dict[str, Any]:
        """As a trusted root names it."""
        details = {"rawBytes": b64(self.spki), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": {"start": since}}
        return {"baseUrl": url, "hashAlgorithm": "SHA2_256", "publicKey": details, "logId": {"keyId": b64(self.id)}}
