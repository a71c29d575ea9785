"""Private keys that stay in a token: PKCS#11, named by an RFC 7512 URI.

pkcs11:token=NAME;object=NAME?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin

A key in a token answers to the calls of a private key of `cryptography` that sealing and signing make, so nothing else
knows that it is one. RSA (OAEP, PSS) and EC P-256 (ECDSA).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from tightship.core import extras
from tightship.errors import UsageError
from tightship.package.kinds import PrivateKey, PublicKey, kind_of
from tightship.package.secret_places import load_passphrase

__all__ = ["MODULE_VARIABLE", "TokenKey", "Uri", "load_token_key", "parse_uri"]

MODULE_VARIABLE = "TIGHTSHIP_PKCS11_MODULE"
PATH_ATTRIBUTES = {"token", "serial", "manufacturer", "model", "object", "id", "type"}
QUERY_ATTRIBUTES = {"module-path", "pin-value", "pin-source"}
PROBE = b"\x00" * 32
HASHES = {"sha1": ("SHA_1", "SHA1"), "sha256": ("SHA256", "SHA256")}
"""How PKCS#11 calls a hash, and the mask generation with it."""


@dataclass(frozen=True)
class Uri:
    """What an RFC 7512 URI says: which token and object, the module to reach them by, and the PIN."""

    token: str | None
    serial: bytes | None
    manufacturer: str | None
    model: str | None
    label: str | None
    id: bytes | None
    module: str
    pin: str | None = field(repr=False)


@dataclass(frozen=True)
class TokenKey:
    """A private key in a token. Every call opens a session, logs in, and closes it again."""

    uri: Uri
    key_type: str

    def sign(self, message: bytes, *algorithm: Any) -> bytes:
        """ECDSA over SHA-256, as DER, or RSA-PSS with SHA-256 and 32 bytes of salt."""
        from pkcs11 import MGF, Mechanism

        with _private_key(self.uri) as key:
            _check_may(key, "sign")
            if self.key_type == "rsa":
                return bytes(
                    key.sign(
                        message,
                        mechanism=Mechanism.SHA256_RSA_PKCS_PSS,
                        mechanism_param=(Mechanism.SHA256, MGF.SHA256, 32),
                    )
                )
            return _ecdsa_der(key.sign(hashlib.sha256(message).digest(), mechanism=Mechanism.ECDSA))

    def decrypt(self, ciphertext: bytes, padding: Any) -> bytes:
        """RSA-OAEP with the hash of `padding`. Raises `ValueError` where the token refuses the ciphertext."""
        import pkcs11

        mechanism, mask = HASHES[padding.algorithm.name]
        oaep = (getattr(pkcs11.Mechanism, mechanism), getattr(pkcs11.MGF, mask), None)
        with _private_key(self.uri) as key:
            _check_may(key, "decrypt")
            try:
                opened = key.decrypt(ciphertext, mechanism=pkcs11.Mechanism.RSA_PKCS_OAEP, mechanism_param=oaep)
            except pkcs11.exceptions.PKCS11Error as error:
                raise ValueError(f"the token did not decrypt: {type(error).__name__}") from None
        return bytes(opened)


def load_token_key(text: str) -> PrivateKey:
    """The key that a `pkcs11:` URI names. Raises `UsageError` where URI, module, token, PIN or key is not right."""
    extras.check("cryptography", "a key in a token")
    extras.require("pkcs11", "a key in a PKCS#11 token")
    uri = parse_uri(text)
    with _private_key(uri) as key:
        public = _public_key(key, uri)
    kind = kind_of(public)
    secret = TokenKey(uri, "rsa" if kind.startswith("rsa") else "ec")
    return PrivateKey(PublicKey(kind, public, _oaep_hash(secret, public)), secret)


def parse_uri(text: str) -> Uri:
    """Parse an RFC 7512 URI; an attribute that is not known is refused, since it would be meant to choose the key."""
    path, _, query = text.removeprefix("pkcs11:").partition("?")
    chosen = _attributes(path, ";", PATH_ATTRIBUTES)
    asked = _attributes(query, "&", QUERY_ATTRIBUTES)
    if chosen.get("type", b"private") != b"private":
        raise UsageError(f"the pkcs11 URI names a {_text(chosen['type'])} object; expected type=private or none")
    if not {"object", "id"} & chosen.keys():
        raise UsageError("the pkcs11 URI names no key; expected object=LABEL or id=%01 in it")
    module = _text(asked.get("module-path")) or os.environ.get(MODULE_VARIABLE)
    if not module:
        raise UsageError(f"which PKCS#11 module? Name it by ?module-path=/path/to.so, or in {MODULE_VARIABLE}")
    pin = _text(asked.get("pin-value"))
    if "pin-source" in asked:
        pin = load_passphrase((_text(asked["pin-source"]) or "").removeprefix("file:")).decode("utf-8", "replace")
    token, label, maker, model = (_text(chosen.get(name)) for name in ("token", "object", "manufacturer", "model"))
    return Uri(token, chosen.get("serial"), maker, model, label, chosen.get("id"), module, pin)


def _attributes(text: str, separator: str, known: set[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if name not in known or not equals or name in found:
            raise UsageError(f"{name!r} in the pkcs11 URI: expected each of {', '.join(sorted(known))} once at most")
        found[name] = unquote_to_bytes(value)
    return found


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


@contextmanager
def _private_key(uri: Uri) -> Iterator[Any]:
    """A session with the token, logged in, and the private key in it."""
    import pkcs11

    try:
        session = _open(_token(uri), uri.pin)
    except (pkcs11.exceptions.PKCS11Error, RuntimeError) as error:
        raise UsageError(
            f"the token {uri.token or ''!r} cannot be opened by {uri.module}: {type(error).__name__} {error}; "
            "look at token, module-path and PIN in the pkcs11 URI"
        ) from error
    with session:
        key = _find(session, uri, pkcs11.ObjectClass.PRIVATE_KEY)
        try:
            yield key
        except pkcs11.exceptions.PKCS11Error as error:
            raise UsageError(
                f"the token {uri.token or ''!r} refused: {type(error).__name__} {error}; "
                "look at what its key may be used for"
            ) from error


def _token(uri: Uri) -> Any:
    """The one token that all the URI says of it fits."""
    import pkcs11

    tokens = [
        token
        for token in pkcs11.lib(uri.module).get_tokens(token_label=uri.token, token_serial=uri.serial)
        if uri.manufacturer in (None, token.manufacturer_id) and uri.model in (None, token.model)
    ]
    if len(tokens) != 1:
        raise RuntimeError(f"{len(tokens)} tokens fit the URI, expected 1")
    return tokens[0]


def _open(token: Any, pin: str | None) -> Any:
    import pkcs11

    try:
        return token.open(user_pin=pin)
    except pkcs11.exceptions.UserAlreadyLoggedIn:  # by another session of this process
        return token.open()


def _find(session: Any, uri: Uri, object_class: Any) -> Any:
    import pkcs11

    try:
        return session.get_key(object_class=object_class, label=uri.label, id=uri.id)
    except pkcs11.exceptions.PKCS11Error as error:
        name = uri.label or (uri.id or b"").hex()
        raise UsageError(
            f"the token has no one key {name!r}: {type(error).__name__}; name it by object= and id="
        ) from error


def _check_may(key: Any, use: str) -> None:
    """python-pkcs11 gives a key the methods that its attributes (CKA_SIGN, CKA_DECRYPT) allow."""
    if not hasattr(key, use):
        raise UsageError(f"the token's key {key.label!r} may not {use}; choose one whose attributes allow it")


def _public_key(private: Any, uri: Uri) -> Any:
    """The other half: from the private object for RSA, which holds it, and from the public one beside it for EC."""
    import pkcs11
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_der_public_key
    from pkcs11.util.ec import encode_ec_public_key

    kind = private.key_type
    if kind == pkcs11.KeyType.RSA:
        names = (pkcs11.Attribute.MODULUS, pkcs11.Attribute.PUBLIC_EXPONENT)
        n, e = (int.from_bytes(private[name], "big") for name in names)
        return rsa.RSAPublicNumbers(e, n).public_key()
    if kind == pkcs11.KeyType.EC:
        return load_der_public_key(encode_ec_public_key(_find(private.session, uri, pkcs11.ObjectClass.PUBLIC_KEY)))
    raise UsageError(f"the token's key is of type {kind.name}; expected RSA or EC P-256")


def _oaep_hash(secret: TokenKey, public: Any) -> str:
    """Which hash the token's OAEP takes: SoftHSM 2 knows SHA-1 alone, which OAEP is secure with (RFC 8017, B.1)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    def works(algorithm: Callable[[], Any]) -> bool:
        oaep = padding.OAEP(padding.MGF1(algorithm()), algorithm(), None)
        try:
            return secret.decrypt(public.encrypt(PROBE, oaep), oaep) == PROBE
        except (ValueError, UsageError):
            return False

    if secret.key_type != "rsa" or works(hashes.SHA256):
        return "sha256"
    return "sha1" if works(hashes.SHA1) else "sha256"


def _ecdsa_der(signature: bytes) -> bytes:
    """PKCS#11 gives r and s one after the other; X.509 and DSSE want DER."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    half = len(signature) // 2
    return encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
