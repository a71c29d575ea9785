"""Sigstore keyless signatures: an identity provider says who signs, a public log says when, and nobody keeps a key.

The library `sigstore` makes and checks them, as it does for model-signing's own tool, and the bundles are the same.
https://docs.sigstore.dev/about/overview/, https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightship.core import extras
from tightship.errors import SignatureError, TightshipError, UsageError
from tightship.package import strict_json
from tightship.package.secret_places import read_file, read_secret
from tightship.package.statement import PAYLOAD_TYPE

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["PUBLIC", "Claim", "Identity", "Keyless", "Sigstore", "claim", "read_token", "sign_statement", "verified"]

TOKEN = re.compile(r"ey[\w-]+\.[\w-]+\.[\w-]+")
TRUSTED_ROOT = "application/vnd.dev.sigstore.trustedroot+json"
ISSUER, ISSUER_DER, OTHER_NAME = (f"1.3.6.1.4.1.57264.1.{number}" for number in (1, 8, 7))
UTF8_STRING = 0x0C
_MAX_TEXT = 400


@dataclass(frozen=True)
class Sigstore:
    """Which Sigstore is meant: the public one, its staging twin, or that of a file.

    `trust_config` is a ClientTrustConfig in JSON, as model-signing takes it, or to verify a TrustedRoot. `offline`
    takes the roots of the public one as the library has them, and asks nobody for newer ones.
    """

    staging: bool = False
    trust_config: str | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        if self.trust_config is not None and (self.staging or self.offline):
            raise UsageError("a trust configuration names its own service; leave out --staging and --offline")


PUBLIC = Sigstore()


@dataclass(frozen=True)
class Identity:
    """Whose keyless signature counts: a name (e-mail address, URI of a workflow), and the provider that vouches for it.

    Without the provider the name says nothing: another could give it to anybody.
    """

    name: str
    provider: str
    service: Sigstore = PUBLIC

    def __post_init__(self) -> None:
        if not self.name or not self.provider:
            raise UsageError(
                "a keyless signature is checked against a name and the provider that vouches for it; "
                "give both: --identity name@example.com --identity-provider https://accounts.example.com"
            )

    def __str__(self) -> str:
        return f"{self.name} of {self.provider}"


@dataclass(frozen=True)
class Keyless:
    """How to sign without a key of one's own.

    `token` is an OpenID Connect token, or where one is (see `read_token`). Without it that of the surroundings is
    taken (GitHub Actions, GitLab, Google Cloud, Buildkite). Where there is none, a browser asks, if `ask` is there to
    be told so first.
    """

    token: str | None = field(default=None, repr=False)
    service: Sigstore = PUBLIC
    ask: Callable[[str], None] | None = None

    def ready(self) -> Keyless:
        """The same with its token read, so that nothing is begun in vain. Raises `MissingExtra` and `UsageError`."""
        extras.check("sigstore", "signing through Sigstore")
        return self if self.token is None else replace(self, token=read_token(self.token))


@dataclass(frozen=True)
class Claim:
    """Who a bundle says signed it. Nothing of it was checked."""

    name: str
    provider: str

    def __str__(self) -> str:
        return f"{self.name[:_MAX_TEXT]!r} of {self.provider[:_MAX_TEXT]!r} (it says so; not verified)"


def read_token(where: str) -> str:
    """Return the token that `where` is, or that is kept at a path, in `env:NAME`, on `fd:N` or `-` (standard input).

    Raises `UsageError`, which never shows it.
    """
    if TOKEN.fullmatch(where):
        return where
    name, data = read_secret("fd:0" if where == "-" else where, "an identity token")
    token = data.decode("utf-8", "replace").strip()
    if not TOKEN.fullmatch(token):
        raise UsageError(f"{name} holds no identity token; expected a JSON Web Token: three words with dots between")
    return token


def sign_statement(statement: bytes, keyless: Keyless) -> bytes:
    """Have an in-toto statement signed through Sigstore; return the bundle as JSON, which was checked but for whose.

    Raises `MissingExtra`, `UsageError` where there is no token, and `SignatureError` for what the service answers.
    """
    keyless = keyless.ready()
    with _typed("Sigstore did not sign"):
        from sigstore.dsse import Statement
        from sigstore.sign import SigningContext
        from sigstore.verify import Verifier

        config = _client_config(keyless.service)
        with SigningContext.from_trust_config(config).signer(_identity_token(keyless, config)) as signer:
            bundle = signer.sign_dsse(Statement(statement))
        Verifier(trusted_root=config.trusted_root).verify_dsse(bundle, _Anybody())
        return bytes(bundle.to_json().encode())


def verified(bundle: bytes, identity: Identity) -> bytes:
    """Return the signed payload where the bundle was signed by `identity`, as the library of Sigstore checks it.

    That is: certificate, its entry in the log of certificates, identity, time, entry in the log of signatures, and
    signature. Raises `MissingExtra` and `SignatureError`.
    """
    extras.check("sigstore", "checking a keyless signature")
    root = _trusted_root(identity.service)
    with _typed(f"the keyless signature does not hold for {identity}"):
        from sigstore.models import Bundle
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity as Policy

        policy = Policy(identity=identity.name, issuer=identity.provider)
        kind, payload = Verifier(trusted_root=root).verify_dsse(Bundle.from_json(bundle), policy)
    if kind != PAYLOAD_TYPE:
        raise SignatureError(f"the signed payload is {kind[:80]!r}, expected {PAYLOAD_TYPE!r}")
    return bytes(payload)


def claim(material: Mapping[str, Any]) -> Claim:
    """Who the certificate of a bundle says signed it; nothing is verified. Raises `SignatureError`."""
    try:
        from cryptography import x509

        leaf = x509.load_der_x509_certificate(base64.b64decode(material["certificate"]["rawBytes"], validate=True))
        return Claim(_name(leaf), _provider(leaf))
    except Exception as error:  # parts of a certificate are parsed when first used; what that raises has no one type
        raise SignatureError(f"the certificate in the signature cannot be read: {_reason(error)}") from error


class _Anybody:
    """A policy of `sigstore`: what the service returned must hold, for whomever it is."""

    def verify(self, cert: Certificate) -> None:
        """Admit every name."""


def _identity_token(keyless: Keyless, config: Any) -> Any:
    from sigstore import oidc

    if keyless.token is not None:
        return oidc.IdentityToken(keyless.token)
    found = oidc.detect_credential()
    if found:
        return oidc.IdentityToken(found)
    if keyless.ask is None:
        raise UsageError(
            "there is no identity token, and none in the surroundings; give one with --identity-token, "
            "or sign in a terminal, where a browser can ask you"
        )
    provider = config.signing_config.get_oidc_url()
    keyless.ask(f"there is no identity token, so {provider} asks who you are: a browser opens, or a link is shown")
    return oidc.Issuer(provider).identity_token()


def _client_config(service: Sigstore) -> Any:
    from sigstore.models import ClientTrustConfig

    if service.trust_config is not None:
        return ClientTrustConfig.from_json(_trust_text(service.trust_config))
    if service.staging:
        return ClientTrustConfig.staging(offline=service.offline)
    return ClientTrustConfig.production(offline=service.offline)


def _trusted_root(service: Sigstore) -> Any:
    from sigstore.models import TrustedRoot

    path = service.trust_config
    if path is None:
        with _typed("the roots of Sigstore cannot be fetched (--offline takes those that the library has)"):
            return _client_config(service).trusted_root
    with _typed(f"{path} is no trust configuration of Sigstore"):
        kind = strict_json.load(_trust_text(path).encode())["mediaType"]
        if str(kind).startswith(TRUSTED_ROOT):
            return TrustedRoot.from_file(path)
        return _client_config(service).trusted_root


def _trust_text(path: str) -> str:
    return read_file(Path(path), "a trust configuration of Sigstore", secret=False).decode("utf-8")


def _name(leaf: Certificate) -> str:
    from cryptography import x509

    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    for name in names:
        if isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier):
            return name.value
        if isinstance(name, x509.OtherName) and name.type_id.dotted_string == OTHER_NAME:
            return _utf8(name.value)
    raise ValueError("it names nobody")


def _provider(leaf: Certificate) -> str:
    from cryptography import x509

    found = {
        entry.oid.dotted_string: entry.value.value
        for entry in leaf.extensions
        if isinstance(entry.value, x509.UnrecognizedExtension)
    }
    if ISSUER_DER in found:
        return _utf8(found[ISSUER_DER])
    return found[ISSUER].decode("utf-8")


def _utf8(der: bytes) -> str:
    """The text of a UTF8String in DER, of less than 64 KiB."""
    n_more = der[1] - 0x80 if der[1] >= 0x80 else 0
    start = 2 + n_more
    size = int.from_bytes(der[2:start], "big") if n_more else der[1]
    if der[0] != UTF8_STRING or n_more > 2 or len(der) != start + size:
        raise ValueError("a text in it is not a UTF8String")
    return der[start:].decode("utf-8")


@contextmanager
def _typed(what: str) -> Iterator[None]:
    """The library and those that it calls raise errors of many families; here they have one type."""
    try:
        yield
    except TightshipError:
        raise
    except Exception as error:
        raise SignatureError(f"{what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    cause = error if str(error) else error.__cause__ or error
    text = " ".join(str(cause).split())[:_MAX_TEXT]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
