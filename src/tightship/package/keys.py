"""Key pairs in files: NAME.key (PKCS#8 PEM, for its owner alone) and NAME.pub (SubjectPublicKeyInfo PEM).

A hybrid key is two PEM blocks, ML-KEM-768 (RFC 9935) and then X25519 (RFC 8410), each readable by itself. A private key
may also come from the environment, a file descriptor, or a PKCS#11 token that never gives it away.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tightship.core import extras
from tightship.core.atomic import write_bytes, writing
from tightship.errors import OutputError, UnsupportedError, UsageError
from tightship.package.kinds import (
    KINDS,
    HybridPrivate,
    HybridPublic,
    Kind,
    PrivateKey,
    PublicKey,
    kind_of,
    new_key,
)
from tightship.package.pkcs11 import load_token_key
from tightship.package.refusal import refusal
from tightship.package.secret_places import load_passphrase, read_file, read_secret

__all__ = [
    "KINDS",
    "Kind",
    "PrivateKey",
    "PublicKey",
    "load_passphrase",
    "load_private",
    "load_public",
    "new_key",
    "public_pem",
    "write_pair",
]

BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n.{1,20000}?-----END \1-----", re.DOTALL)
OAEP_NOTE = b"OAEP-Hash: sha1"
"""Stands before the PEM of a public key whose token decrypts OAEP with SHA-1 only."""


def write_pair(
    key: PrivateKey, name: str | Path, passphrase: bytes | None = None, force: bool = False
) -> tuple[Path, Path]:
    """Write NAME.key with mode 0600, encrypted where there is a passphrase, and NAME.pub; return both paths.

    Raises `OutputError` where one of them exists, unless `force`.
    """
    private, public = Path(f"{name}.key"), Path(f"{name}.pub")
    for path in (private, public):
        if os.path.lexists(path) and not force:
            raise OutputError(f"{path} exists; choose another name, or --force to lose the key that is there")
    with writing(private) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_private_pem(key, passphrase))
    write_bytes(public, public_pem(key.public))
    return private, public


def public_pem(key: PublicKey) -> bytes:
    """The key as PEM: one SubjectPublicKeyInfo, two for a hybrid."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    parts = key.key.parts() if isinstance(key.key, HybridPublic) else (key.key,)
    pem = b"".join(part.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for part in parts)
    return pem if key.oaep_hash == "sha256" else OAEP_NOTE + b"\n" + pem


def load_private(where: str | Path, passphrase: bytes | None = None) -> PrivateKey:
    """Load a private key from a path, `env:NAME`, `fd:N`, or a `pkcs11:` URI (RFC 7512).

    Raises `UsageError` where there is none, where it lies open to others, or where it needs a passphrase;
    `UnsupportedError` for other kinds of keys; the uniform `SealError` for a wrong passphrase.
    """
    extras.check("cryptography", "reading a key")
    if str(where).startswith("pkcs11:"):
        return load_token_key(str(where))
    name, data = read_secret(where, "a private key")
    blocks = _blocks(name, data)
    if any(b"PUBLIC" in label for label, _ in blocks):
        raise UsageError(f"{name} holds a public key; expected a private one, as in NAME.key")
    secrets = [_parse_private(name, block, passphrase) for _, block in blocks]
    secret = _join(name, secrets, HybridPrivate)
    return PrivateKey(PublicKey(kind_of(secret.public_key()), secret.public_key()), secret)


def load_public(path: str | Path) -> PublicKey:
    """Load NAME.pub. Raises `UsageError` where it is not a public key, `UnsupportedError` for other kinds of keys."""
    extras.check("cryptography", "reading a key")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    name, data = str(path), read_file(Path(path), "a public key", secret=False)
    blocks = _blocks(name, data)
    if any(b"PRIVATE" in label for label, _ in blocks):
        raise UsageError(f"{name} holds a private key, which is to be shown to nobody; expected NAME.pub")
    try:
        parts = [load_pem_public_key(block) for _, block in blocks]
    except Exception as error:  # what else than ValueError a malformed key raises differs by its type
        raise UsageError(f"{name} is not a public key that can be read: {error}") from error
    key = _join(name, parts, HybridPublic)
    return PublicKey(kind_of(key), key, "sha1" if OAEP_NOTE in data.splitlines() else "sha256")


def _blocks(name: str, data: bytes) -> list[tuple[bytes, bytes]]:
    """The PEM blocks of a file, each with its label."""
    blocks = [(match[1], match[0]) for match in BLOCK.finditer(data)]
    if not 1 <= len(blocks) <= 2:
        raise UsageError(f"{name} holds {len(blocks)} PEM blocks; expected a key as `tightship keys new` writes it")
    return blocks


def _join(name: str, parts: list[Any], hybrid: type[HybridPrivate | HybridPublic]) -> Any:
    """One key, or the two of a hybrid."""
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

    if len(parts) == 1:
        return parts[0]
    halves = (mlkem.MLKEM768PrivateKey | mlkem.MLKEM768PublicKey, x25519.X25519PrivateKey | x25519.X25519PublicKey)
    if not all(isinstance(part, half) for part, half in zip(parts, halves, strict=True)):
        found = " and ".join(type(part).__name__ for part in parts)
        raise UnsupportedError(f"{name} holds {found}; two keys in one file are ML-KEM-768 and then X25519")
    return hybrid(*parts)


def _parse_private(name: str, block: bytes, passphrase: bytes | None) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    encrypted = b"ENCRYPTED" in block[:200]
    if encrypted and passphrase is None:
        raise UsageError(f"{name} is encrypted; give its passphrase (--passphrase-file FILE, env:NAME or fd:N)")
    try:
        return load_pem_private_key(block, passphrase if encrypted else None)
    except Exception as error:  # what else than ValueError a malformed key raises differs by its type
        if encrypted:
            raise refusal() from None
        raise UsageError(f"{name} is not a private key that can be read: {error}") from error


def _private_pem(key: PrivateKey, passphrase: bytes | None) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
    )

    if not hasattr(key.secret, "private_bytes") and not isinstance(key.secret, HybridPrivate):
        raise UsageError("the private key lies in a token, which does not give it away")
    if passphrase == b"":
        raise UsageError("an empty passphrase protects nothing; give one with letters in it")
    parts = key.secret.parts() if isinstance(key.secret, HybridPrivate) else (key.secret,)
    encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return b"".join(part.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption) for part in parts)
