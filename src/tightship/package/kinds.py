"""The kinds of keys: one table that says how each is made and told, whether it signs, and whether it receives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tightship.core import extras
from tightship.errors import UnsupportedError, UsageError, nearest

__all__ = ["KINDS", "HybridPrivate", "HybridPublic", "Kind", "PrivateKey", "PublicKey", "kind_of", "new_key"]

RSA_EXPONENT = 65537


@dataclass(frozen=True)
class Kind:
    """A kind of key pair; `make` returns a new private key of `cryptography`."""

    name: str
    signs: bool
    receives: bool
    about: str
    make: Callable[[], Any] = field(repr=False)


@dataclass(frozen=True)
class HybridPublic:
    """The public keys of ML-KEM-768 and X25519; both have to be broken to open what is sealed to them."""

    mlkem: Any
    x25519: Any

    def parts(self) -> tuple[Any, ...]:
        """The keys that have an encoding of their own, in the order in which they are written."""
        return (self.mlkem, self.x25519)

    def for_hpke(self) -> Any:
        """The key as HPKE takes it."""
        from cryptography.hazmat.primitives.hpke import MLKEM768X25519PublicKey

        return MLKEM768X25519PublicKey(self.mlkem, self.x25519)


@dataclass(frozen=True)
class HybridPrivate:
    """The private keys of ML-KEM-768 and X25519."""

    mlkem: Any = field(repr=False)
    x25519: Any = field(repr=False)

    def parts(self) -> tuple[Any, ...]:
        """The keys that have an encoding of their own, in the order in which they are written."""
        return (self.mlkem, self.x25519)

    def public_key(self) -> HybridPublic:
        """The other half."""
        return HybridPublic(self.mlkem.public_key(), self.x25519.public_key())

    def for_hpke(self) -> Any:
        """The key as HPKE takes it."""
        from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

        return MLKEM768X25519PrivateKey(self.mlkem, self.x25519)


def _rsa(n_bits: int) -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(RSA_EXPONENT, n_bits)


def _x25519() -> Any:
    from cryptography.hazmat.primitives.asymmetric import x25519

    return x25519.X25519PrivateKey.generate()


def _hybrid() -> Any:
    from cryptography.hazmat.primitives.asymmetric import mlkem

    return HybridPrivate(mlkem.MLKEM768PrivateKey.generate(), _x25519())


def _ec_p256() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _ed25519() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519.Ed25519PrivateKey.generate()


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("rsa-3072", True, True, "RSA of 3072 bits: OAEP to receive, PSS to sign", lambda: _rsa(3072)),
        Kind("rsa-4096", True, True, "RSA of 4096 bits: OAEP to receive, PSS to sign", lambda: _rsa(4096)),
        Kind("x25519", False, True, "HPKE on Curve25519: small and quick", _x25519),
        Kind("mlkem768-x25519", False, True, "HPKE, post-quantum and classical at once", _hybrid),
        Kind("ec-p256", True, False, "ECDSA on P-256: what OpenSSF Model Signing writes and checks", _ec_p256),
        Kind("ed25519", True, False, "EdDSA on Curve25519: small and quick", _ed25519),
    )
}


@dataclass(frozen=True, eq=False)
class PublicKey:
    """A key to give away: it checks signatures, or seals for whoever holds its other half.

    `oaep_hash` is the hash of OAEP and its mask for an RSA key: sha1 only for tokens that know no other (`pkcs11`).
    """

    kind: str
    key: Any = field(repr=False)
    oaep_hash: str = "sha256"

    @cached_property
    def encodings(self) -> tuple[bytes, ...]:
        """Each part as DER SubjectPublicKeyInfo (RFC 5280)."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return tuple(part.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for part in _parts(self.key))

    @cached_property
    def id(self) -> str:
        """The SHA-256 of its SubjectPublicKeyInfo (of both, one after the other, for a hybrid), in hex."""
        return hashlib.sha256(b"".join(self.encodings)).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.encodings == other.encodings

    def __hash__(self) -> int:
        return hash(self.encodings)

    def check_receives(self) -> None:
        """Raise `UsageError` where nothing can be sealed for this kind of key."""
        if not KINDS[self.kind].receives:
            receivers = ", ".join(kind.name for kind in KINDS.values() if kind.receives)
            raise UsageError(f"a key of type {self.kind} signs and cannot receive; keys that receive: {receivers}")

    def check_signs(self) -> None:
        """Raise `UsageError` where this kind of key neither makes nor checks signatures."""
        if not KINDS[self.kind].signs:
            signers = ", ".join(kind.name for kind in KINDS.values() if kind.signs)
            raise UsageError(f"a key of type {self.kind} receives and cannot sign; keys that sign: {signers}")


@dataclass(frozen=True, eq=False)
class PrivateKey:
    """A key to keep. `secret` is a private key of `cryptography`, or one in a token that answers to the same calls."""

    public: PublicKey
    secret: Any = field(repr=False)

    @property
    def kind(self) -> str:
        """Its row in `KINDS`."""
        return self.public.kind


def new_key(kind: str) -> PrivateKey:
    """Make a key pair.

    Raises `UsageError` for a kind that is not in `KINDS`, and `UnsupportedError` where this machine cannot make it.
    """
    if kind not in KINDS:
        raise UsageError(f"no key type {kind!r}{nearest(kind, KINDS)}; there are {', '.join(KINDS)}")
    extras.check("cryptography", "making a key")
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        secret = KINDS[kind].make()
    except UnsupportedAlgorithm as error:
        raise UnsupportedError(f"this build of cryptography cannot make a key of type {kind}: {error}") from error
    return PrivateKey(PublicKey(kind, secret.public_key()), secret)


def kind_of(public: Any) -> str:
    """Tell the kind of a public key of `cryptography`. Raises `UnsupportedError` where it is none of `KINDS`."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

    if isinstance(public, rsa.RSAPublicKey):
        found = f"rsa-{public.key_size}"
    elif isinstance(public, ec.EllipticCurvePublicKey):
        found = "ec-p256" if public.curve.name == "secp256r1" else f"ec on {public.curve.name}"
    elif isinstance(public, HybridPublic):
        found = "mlkem768-x25519"
    else:
        names = {x25519.X25519PublicKey: "x25519", ed25519.Ed25519PublicKey: "ed25519"}
        found = next((name for type_, name in names.items() if isinstance(public, type_)), type(public).__name__)
    if found not in KINDS:
        raise UnsupportedError(f"a key of type {found}; expected one of {', '.join(KINDS)}")
    return found


def _parts(key: Any) -> tuple[Any, ...]:
    return key.parts() if isinstance(key, HybridPublic | HybridPrivate) else (key,)
