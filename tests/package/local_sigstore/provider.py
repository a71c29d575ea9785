"""An identity provider (OpenID Connect): it vouches for whomever the test says."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tests.package.local_sigstore.log_key import canonical


class Provider:
    """Vouches for whoever it is told to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.user = "alice@example.com"
        self._codes: dict[str, tuple[str, str]] = {}
        self._secret = ec.generate_private_key(ec.SECP256R1())

    def token(self, name: str, **claims: Any) -> str:
        """A token for the audience `sigstore`, in the name of `name`."""
        now = int(datetime.now(UTC).timestamp())
        body = {"iss": self.url, "sub": name, "aud": "sigstore", "iat": now, "exp": now + 60, **claims}
        text = ".".join(self._word(canonical(part)) for part in ({"alg": "ES256", "typ": "JWT"}, body))
        r, s = decode_dss_signature(self._secret.sign(text.encode(), ec.ECDSA(SHA256())))
        return f"{text}.{self._word(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def name_in(self, token: str) -> str:
        """Whom a token is for; raises where this provider did not issue it."""
        text, _, signature = token.rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        halves = (int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        self._secret.public_key().verify(encode_dss_signature(*halves), text.encode(), ec.ECDSA(SHA256()))
        name: str = json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "=="))["sub"]
        return name

    def configuration(self) -> dict[str, str]:
        """What it says at `.well-known/openid-configuration`."""
        return {"authorization_endpoint": f"{self.url}/auth", "token_endpoint": f"{self.url}/token"}

    def log_in(self, query: str) -> str:
        """The user is in a browser at this page and says yes; return where the browser goes next."""
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        assert asked["code_challenge_method"] == "S256"
        assert urlsplit(asked["redirect_uri"]).hostname == "localhost"
        code = f"code-{len(self._codes)}"
        self._codes[code] = (self.user, asked["code_challenge"])
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def redeem(self, form: str) -> dict[str, str]:
        """The token for a code, for who knows what its challenge was made of (RFC 7636)."""
        asked = {name: values[0] for name, values in parse_qs(form).items()}
        user, challenge = self._codes.pop(asked["code"])
        assert self._word(hashlib.sha256(asked["code_verifier"].encode()).digest()) == challenge
        return {"access_token": self.token(user)}

    @staticmethod
    def _word(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
