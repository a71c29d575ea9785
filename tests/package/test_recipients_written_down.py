"""docs/keys.md is enough to open a wrap: a second reader, made from it, RFC 9180 and the X-Wing draft alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from tests.package.key_pairs import key
from tightship.package.kinds import PrivateKey, PublicKey
from tightship.package.recipients import Argon2idCost, Passphrase, ScryptCost, Wrapped, wrap

CONTEXT = b"package 1"
DATA_KEY = bytes(range(32))
HKDF_SHA256, AES_256_GCM = 1, 2
XWING_LABEL = rb"\.//^\ ".strip()


def binding(wrapped: Wrapped) -> bytes:
    words = [wrapped.suite, wrapped.key_id, sorted(map(list, wrapped.parameters.items()))]
    text = json.dumps(words, separators=(",", ":")).encode()
    return b"tightship wrap 1\n" + len(text).to_bytes(4, "big") + text + CONTEXT


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    pseudorandom = hmac.digest(salt or bytes(32), ikm, "sha256")
    return expand(pseudorandom, info, length)


def expand(pseudorandom: bytes, info: bytes, length: int) -> bytes:
    blocks = b""
    block = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes([number]), "sha256")
        blocks += block
    return blocks[:length]


def labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def labeled_expand(suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(secret, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def hpke_open(kem: int, shared_secret: bytes, info: bytes, ciphertext: bytes) -> bytes:
    """RFC 9180, section 5.1, base mode."""
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (kem, HKDF_SHA256, AES_256_GCM))
    ids = labeled_extract(suite, b"", b"psk_id_hash", b"") + labeled_extract(suite, b"", b"info_hash", info)
    secret = labeled_extract(suite, shared_secret, b"secret", b"")
    aes = labeled_expand(suite, secret, b"key", b"\0" + ids, 32)
    nonce = labeled_expand(suite, secret, b"base_nonce", b"\0" + ids, 12)
    return AESGCM(aes).decrypt(nonce, ciphertext, b"")


def dhkem(secret: X25519PrivateKey, encapsulated: bytes) -> bytes:
    """RFC 9180, section 4.1."""
    suite, public = b"KEM" + (0x20).to_bytes(2, "big"), secret.public_key().public_bytes_raw()
    agreed = secret.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    pseudorandom = labeled_extract(suite, b"", b"eae_prk", agreed)
    return labeled_expand(suite, pseudorandom, b"shared_secret", encapsulated + public, 32)


def xwing(mlkem: object, secret: X25519PrivateKey, encapsulated: bytes) -> bytes:
    """draft-connolly-cfrg-xwing-kem, section 5.5."""
    first, second = encapsulated[:1088], encapsulated[1088:]
    agreed = secret.exchange(X25519PublicKey.from_public_bytes(second))
    public = secret.public_key().public_bytes_raw()
    inner: bytes = mlkem.decapsulate(first)  # type: ignore[attr-defined]
    return hashlib.sha3_256(inner + agreed + second + public + XWING_LABEL).digest()


def aes_open(aes: bytes, wrapped: Wrapped) -> bytes:
    sealed = base64.b64decode(wrapped.ciphertext)
    return AESGCM(aes).decrypt(sealed[:12], sealed[12:], binding(wrapped))


def open_x25519(wrapped: Wrapped, holder: PrivateKey) -> bytes:
    shared = dhkem(holder.secret, base64.b64decode(wrapped.encapsulated))
    return hpke_open(0x20, shared, binding(wrapped), base64.b64decode(wrapped.ciphertext))


def open_hybrid(wrapped: Wrapped, holder: PrivateKey) -> bytes:
    shared = xwing(*holder.secret.parts(), base64.b64decode(wrapped.encapsulated))
    return hpke_open(0x647A, shared, binding(wrapped), base64.b64decode(wrapped.ciphertext))


def open_rsa(wrapped: Wrapped, holder: PrivateKey) -> bytes:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    secret = holder.secret.decrypt(base64.b64decode(wrapped.encapsulated), oaep)
    return aes_open(hkdf(secret, b"", binding(wrapped), 32), wrapped)


@pytest.mark.parametrize(
    ("kind", "open_"), [("x25519", open_x25519), ("mlkem768-x25519", open_hybrid), ("rsa-3072", open_rsa)]
)
def test_a_second_reader_opens_what_is_for_a_key(kind: str, open_: Callable[[Wrapped, PrivateKey], bytes]) -> None:
    receivers: list[PublicKey] = [key(kind).public]
    assert open_(wrap(DATA_KEY, CONTEXT, receivers)[0], key(kind)) == DATA_KEY


def test_a_second_reader_opens_what_is_for_a_passphrase() -> None:
    (wrapped,) = wrap(DATA_KEY, CONTEXT, [Passphrase(b"correct horse", ScryptCost(n=1 << 14))])
    salt = base64.b64decode(wrapped.encapsulated)
    aes = hashlib.scrypt(b"correct horse", salt=salt, **wrapped.parameters, dklen=32)
    assert aes_open(aes, wrapped) == DATA_KEY
    cost = Argon2idCost(memory_kib=8 << 10, iterations=1, lanes=2)
    (wrapped,) = wrap(DATA_KEY, CONTEXT, [Passphrase(b"correct horse", cost)])
    salt = base64.b64decode(wrapped.encapsulated)
    argon2 = Argon2id(salt=salt, length=32, iterations=1, lanes=2, memory_cost=8 << 10)
    assert aes_open(argon2.derive(b"correct horse"), wrapped) == DATA_KEY
