"""Making a key pair, and saying what a key is: the verbs behind `tightship keys`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tightship.core.atomic import write_bytes
from tightship.errors import OutputError
from tightship.package import keys
from tightship.package.secret_places import read_file
from tightship.package.signing import key_hint

__all__ = ["KeyReport", "new_key", "show_key"]


@dataclass(frozen=True)
class KeyReport:
    """What a key is for, its id (the SHA-256 of its SubjectPublicKeyInfo), and where its halves were written.

    `hint` is what signatures call it (the SHA-256 of its PEM), empty for a key that does not sign.
    """

    kind: str
    id: str
    signs: bool
    receives: bool
    private: Path | None = None
    public: Path | None = None
    hint: str = ""


def new_key(kind: str, name: str | Path, passphrase: str | Path | None = None, force: bool = False) -> KeyReport:
    """Make a key pair and write NAME.key and NAME.pub.

    `passphrase` is where the passphrase is that encrypts NAME.key: a path, `env:NAME` or `fd:N`. Raises `OutputError`
    where one of the files exists, unless `force`.
    """
    secret = None if passphrase is None else keys.load_passphrase(passphrase)
    key = keys.new_key(kind)
    return _report(key.public, *keys.write_pair(key, name, secret, force))


def show_key(where: str | Path, passphrase: str | Path | None = None, public: Path | None = None) -> KeyReport:
    """Say what a key is: NAME.pub, NAME.key, `env:NAME`, `fd:N` or a `pkcs11:` URI.

    `public` is where to write the public half to, say of a key in a token.
    """
    secret = None if passphrase is None else keys.load_passphrase(passphrase)
    key = keys.load_public(where) if _is_public(where) else keys.load_private(where, secret).public
    if public is not None:
        if public.exists():
            raise OutputError(f"{public} exists; choose another name for the public key")
        write_bytes(public, keys.public_pem(key))
    return _report(key, None, public)


def _is_public(where: str | Path) -> bool:
    """Whether `where` is to be read as a public key; what is no file is left to `load_private` to explain."""
    path = Path(where)
    if str(where).startswith("pkcs11:") or not path.is_file():
        return False
    return b"PRIVATE KEY-" not in read_file(path, "a key", secret=False)


def _report(key: keys.PublicKey, private: Path | None, public: Path | None) -> KeyReport:
    kind = keys.KINDS[key.kind]
    hint = key_hint(key) if kind.signs else ""
    return KeyReport(kind.name, key.id, kind.signs, kind.receives, private, public, hint)
