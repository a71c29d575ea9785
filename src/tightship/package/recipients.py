"""Who may open a package: its data key, wrapped once for every receiver.

Each wrap is bound to its suite, its receiver, its parameters and the package (`context`), so that none of them can be
exchanged. HPKE (RFC 9180) wraps the data key itself; RSA-OAEP (RFC 8017) and passphrases give a key that is used once,
for AES-256-GCM around the data key. What does not open gives one and the same `SealError`, after bounded work.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tightship.core import extras
from tightship.errors import UsageError
from tightship.package.kinds import PrivateKey, PublicKey
from tightship.package.passphrases import COSTS, MAX_WORK_KIB, SALT_BYTES, Argon2idCost, Cost, Passphrase, ScryptCost
from tightship.package.refusal import refusal
from tightship.package.streaming import KEY_BYTES, TAG_BYTES, wipe

__all__ = [
    "MAX_PASSPHRASES",
    "MAX_RECIPIENTS",
    "SUITES",
    "Argon2idCost",
    "Passphrase",
    "ScryptCost",
    "Wrapped",
    "read_wrapped",
    "unwrap",
    "wrap",
]

MAX_RECIPIENTS = 64
MAX_PASSPHRASES = 4
MAX_FIELD = 4096
NONCE_BYTES = 12
ENCAPSULATED_BYTES = {"x25519": 32, "mlkem768-x25519": 1088 + 32}
"""How long HPKE's `enc` is, which it puts before the ciphertext."""

SUITES = {
    "rsa-3072": "rsa-oaep-{oaep_hash}-aes-256-gcm",
    "rsa-4096": "rsa-oaep-{oaep_hash}-aes-256-gcm",
    "x25519": "hpke-x25519-hkdf-sha256-aes-256-gcm",
    "mlkem768-x25519": "hpke-mlkem768-x25519-hkdf-sha256-aes-256-gcm",
}
"""How the data key is wrapped for each kind of key that receives; a key opens this suite and no other."""


@dataclass(frozen=True)
class Wrapped:
    """The data key for one receiver. Every field is JSON as it stands; bytes are base64.

    `key_id` is the receiver's, empty for a passphrase. `encapsulated` is what the receiver's key or passphrase makes a
    key from (KEM output, OAEP ciphertext, salt), `ciphertext` the data key under that key, `parameters` the cost of a
    passphrase.
    """

    suite: str
    key_id: str
    encapsulated: str
    ciphertext: str
    parameters: Mapping[str, int] = field(default_factory=dict)


def wrap(
    data_key: bytes | bytearray, context: bytes, recipients: Sequence[PublicKey | Passphrase]
) -> tuple[Wrapped, ...]:
    """Wrap a 32-byte data key for each receiver, bound to `context`, the bytes that tell this package from others.

    Raises `UsageError` for no receiver, too many, one twice, or a key that only signs.
    """
    extras.check("cryptography", "sealing")
    if len(data_key) != KEY_BYTES:
        raise UsageError(f"a data key has {KEY_BYTES} bytes, found {len(data_key)}")
    _check_recipients(recipients)
    return tuple(
        _wrap_passphrase(data_key, context, recipient)
        if isinstance(recipient, Passphrase)
        else _wrap_key(data_key, context, recipient)
        for recipient in recipients
    )


def unwrap(wrapped: Sequence[Wrapped], context: bytes, key: PrivateKey | Passphrase) -> bytearray:
    """Return the data key, to be wiped after use. Raises the uniform `SealError` where `key` opens none of the wraps,
    and `UsageError` for a key that only signs."""
    extras.check("cryptography", "opening a seal")
    _check_bounds(wrapped)
    if isinstance(key, Passphrase):
        found = _unwrap_passphrase(wrapped, context, key)
    else:
        key.public.check_receives()
        found = _unwrap_key(wrapped, context, key)
    if found is None or len(found) != KEY_BYTES:
        raise refusal()
    return found


def read_wrapped(rows: Any) -> tuple[Wrapped, ...]:
    """The wraps from what a JSON header holds. Raises the uniform `SealError` where it is not what `wrap` makes."""
    names = {entry.name for entry in fields(Wrapped)}
    if not isinstance(rows, list) or len(rows) > MAX_RECIPIENTS:
        raise refusal()
    if not all(isinstance(row, dict) and set(row) == names for row in rows):
        raise refusal()
    wrapped = tuple(Wrapped(**row) for row in rows)
    _check_bounds(wrapped)
    return wrapped


def suite_of(key: PublicKey) -> str:
    """The one suite that seals for this key."""
    return SUITES[key.kind].format(oaep_hash=key.oaep_hash)


def _check_recipients(recipients: Sequence[PublicKey | Passphrase]) -> None:
    keys = [recipient for recipient in recipients if isinstance(recipient, PublicKey)]
    n_passphrases = len(recipients) - len(keys)
    for key in keys:
        key.check_receives()
    if not 1 <= len(recipients) <= MAX_RECIPIENTS or n_passphrases > MAX_PASSPHRASES:
        raise UsageError(
            f"a package has 1 to {MAX_RECIPIENTS} receivers, at most {MAX_PASSPHRASES} of them passphrases; "
            f"found {len(recipients)}, {n_passphrases} of them passphrases"
        )
    if sum(entry.cost.work_kib for entry in recipients if isinstance(entry, Passphrase)) > MAX_WORK_KIB:
        raise UsageError("the passphrases together cost more than a reader will pay; lower their costs")
    if len({key.id for key in keys}) != len(keys):
        raise UsageError("a receiver is named twice; give each key once")


def _check_bounds(wrapped: Sequence[Wrapped]) -> None:
    """Refuse a header that would cost more than it can be worth, before any of it is used."""
    if len(wrapped) > MAX_RECIPIENTS or sum(not entry.key_id for entry in wrapped) > MAX_PASSPHRASES:
        raise refusal()
    for entry in wrapped:
        texts = (entry.suite, entry.key_id, entry.encapsulated, entry.ciphertext)
        if not all(isinstance(text, str) and len(text) <= MAX_FIELD and text.isascii() for text in texts):
            raise refusal()
        if not isinstance(entry.parameters, Mapping) or len(entry.parameters) > len(fields(Argon2idCost)):
            raise refusal()


def _wrap_key(data_key: bytes | bytearray, context: bytes, key: PublicKey) -> Wrapped:
    suite = suite_of(key)
    binding = _binding(suite, key.id, {}, context)
    if suite.startswith("hpke"):
        sealed = _hpke(key.kind).encrypt(data_key, _for_hpke(key.key), binding)
        size = ENCAPSULATED_BYTES[key.kind]
        return Wrapped(suite, key.id, _to_text(sealed[:size]), _to_text(sealed[size:]))
    secret = os.urandom(KEY_BYTES)
    encapsulated = key.key.encrypt(secret, _oaep(key))
    return Wrapped(suite, key.id, _to_text(encapsulated), _encrypt(_expand(secret, binding), data_key, binding))


def _wrap_passphrase(data_key: bytes | bytearray, context: bytes, passphrase: Passphrase) -> Wrapped:
    salt, parameters, suite = os.urandom(SALT_BYTES), passphrase.parameters(), _cost_suite(type(passphrase.cost))
    binding = _binding(suite, "", parameters, context)
    ciphertext = _encrypt(passphrase.cost.derive(passphrase.secret, salt), data_key, binding)
    return Wrapped(suite, "", _to_text(salt), ciphertext, parameters)


def _unwrap_key(wrapped: Sequence[Wrapped], context: bytes, key: PrivateKey) -> bytearray | None:
    """Open the one wrap for this key; its suite is the one of the key's kind, whatever the header says."""
    public = key.public
    suite = suite_of(public)
    mine = [entry for entry in wrapped if entry.key_id == public.id]
    if len(mine) != 1 or mine[0].suite != suite or mine[0].parameters:
        return None
    binding = _binding(suite, public.id, {}, context)
    encapsulated, ciphertext = _to_bytes(mine[0].encapsulated), _to_bytes(mine[0].ciphertext)
    if not suite.startswith("hpke"):
        secret = _refused_as_none(lambda: key.secret.decrypt(encapsulated, _oaep(public)))
        return None if secret is None else _decrypt(_expand(secret, binding), ciphertext, binding)
    if len(encapsulated) != ENCAPSULATED_BYTES[public.kind]:
        return None
    sealed = encapsulated + ciphertext
    opened = _refused_as_none(lambda: _hpke(public.kind).decrypt(sealed, _for_hpke(key.secret), binding))
    return None if opened is None else bytearray(opened)


def _unwrap_passphrase(wrapped: Sequence[Wrapped], context: bytes, passphrase: Passphrase) -> bytearray | None:
    """Try the wraps for passphrases, at most four; the costs of all are checked before the first is paid."""
    costs = list(_costs(wrapped))
    if sum(cost.work_kib for _, cost in costs) > MAX_WORK_KIB:
        raise refusal()
    for entry, cost in costs:
        salt, ciphertext = _to_bytes(entry.encapsulated), _to_bytes(entry.ciphertext)
        if len(salt) != SALT_BYTES:
            raise refusal()
        binding = _binding(entry.suite, "", entry.parameters, context)
        found = _decrypt(cost.derive(passphrase.secret, salt), ciphertext, binding)
        if found is not None:
            return found
    return None


def _costs(wrapped: Sequence[Wrapped]) -> Iterator[tuple[Wrapped, Cost]]:
    by_suite = {_cost_suite(type_): type_ for type_ in COSTS.values()}
    for entry in wrapped:
        if not entry.key_id:
            try:
                yield entry, by_suite[entry.suite](**entry.parameters)
            except (KeyError, TypeError, UsageError):
                raise refusal() from None


def _cost_suite(cost: type[Cost]) -> str:
    return f"{cost.suite}-aes-256-gcm"


def _binding(suite: str, key_id: str, parameters: Mapping[str, int], context: bytes) -> bytes:
    """All that a wrap depends on, in an encoding that cannot be read in two ways."""
    known = json.dumps([suite, key_id, sorted(parameters.items())], separators=(",", ":")).encode()
    return b"tightship wrap 1\n" + len(known).to_bytes(4, "big") + known + context


def _encrypt(key: bytearray, data_key: bytes | bytearray, binding: bytes) -> str:
    """AES-256-GCM under a key that is used this once, and wiped: nonce, ciphertext, tag."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(NONCE_BYTES)
    try:
        return _to_text(nonce + AESGCM(key).encrypt(nonce, data_key, binding))
    finally:
        wipe(key)


def _decrypt(key: bytearray, sealed: bytes, binding: bytes) -> bytearray | None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    opened = bytearray(KEY_BYTES)
    if len(sealed) != NONCE_BYTES + KEY_BYTES + TAG_BYTES:
        return None
    try:
        nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        done = _refused_as_none(lambda: AESGCM(key).decrypt_into(nonce, ciphertext, binding, opened))
        return None if done is None else opened
    finally:
        wipe(key)


def _refused_as_none(open_: Any) -> Any:
    """What opens something, or None where it refuses: by a tag, by padding, or because the bytes cannot be any."""
    from cryptography.exceptions import InvalidTag

    try:
        return open_()
    except (InvalidTag, ValueError):
        return None


def _expand(secret: bytes, binding: bytes) -> bytearray:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = bytearray(KEY_BYTES)
    HKDF(SHA256(), KEY_BYTES, None, binding).derive_into(secret, derived)
    return derived


def _oaep(key: PublicKey) -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    algorithm = hashes.SHA1() if key.oaep_hash == "sha1" else hashes.SHA256()
    return padding.OAEP(padding.MGF1(algorithm), algorithm, None)


def _hpke(kind: str) -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519 if kind == "x25519" else KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _for_hpke(key: Any) -> Any:
    return key.for_hpke() if hasattr(key, "for_hpke") else key


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _to_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise refusal() from None
