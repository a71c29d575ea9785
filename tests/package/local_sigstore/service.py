"""A Sigstore of its own on loopback, for tests: identity provider, authority (Fulcio), and the two logs (CT, Rekor).

It answers what the library `sigstore` asks of the public one, with keys of its own. Nothing leaves the machine.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from tests.package.local_sigstore.authority import Authority
from tests.package.local_sigstore.log import Log, in_a_bundle
from tests.package.local_sigstore.log_key import b64
from tests.package.local_sigstore.provider import Provider
from tests.package.local_sigstore.timestamps import Timestamps
from tightship.package.signing import _pae
from tightship.package.statement import PAYLOAD_TYPE, write_statement

AMBIENT = "/ambient"


class LocalSigstore:
    """All of it behind one address. `late` shifts the log's clock.

    The log is of `version` 1 or 2. With a folder, there are `timestamps` too, which version 2 needs.
    """

    def __init__(self, version: int = 1, timestamps: Path | None = None) -> None:
        self.version = version
        self.since = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.asked: list[str] = []
        self.late = timedelta()
        self.refuses = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.provider, self.log = Provider(f"{self.url}/provider"), Log()
        self.authority = Authority(self.provider.url)
        self.timestamps = None if timestamps is None else Timestamps(timestamps, self.authority)

    def bundle(self, name: str, digests: Mapping[str, str], late: timedelta = timedelta()) -> dict[str, Any]:
        """A bundle as `name` would get it, made without the library; `late` shifts the time of the log."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.authority.certificate(name, key.public_key())
        payload = write_statement(digests, "model")
        envelope = {
            "payload": b64(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": b64(key.sign(_pae(payload), ec.ECDSA(SHA256())))}],
        }
        content = {"envelope": json.dumps(envelope), "verifiers": [b64(leaf.public_bytes(Encoding.PEM))]}
        ((_, entry),) = self.log.add({"spec": {"proposedContent": content}}, late).items()
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(leaf.public_bytes(Encoding.DER))},
                "tlogEntries": [self._logged(entry)],
            },
            "dsseEnvelope": envelope,
        }

    @staticmethod
    def _logged(entry: Mapping[str, Any]) -> dict[str, Any]:
        """An entry of the log as a bundle has it."""
        return {
            "logIndex": str(entry["logIndex"]),
            "logId": {"keyId": b64(bytes.fromhex(entry["logID"]))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(entry["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": entry["verification"]["signedEntryTimestamp"]},
            "inclusionProof": in_a_bundle(entry["verification"]["inclusionProof"]),
            "canonicalizedBody": entry["body"],
        }

    def trust_config(self, path: Path) -> Path:
        """Write its roots and addresses as `--trust-config` takes them."""
        path.write_text(json.dumps(self._config()), encoding="utf-8")
        return path

    def trusted_root(self, path: Path) -> Path:
        """Write its roots alone."""
        path.write_text(json.dumps(self._roots()), encoding="utf-8")
        return path

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _roots(self) -> dict[str, Any]:
        root, telling = self.authority.root, self.timestamps
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self.log.key.trusted(self.url, self.since)],
            "certificateAuthorities": [self._vouching(self.authority.between, root)],
            "ctlogs": [self.authority.ct.trusted(f"{self.url}/ct", self.since)],
            "timestampAuthorities": [self._vouching(telling.certificate, root)] if telling else [],
        }

    def _vouching(self, *chain: x509.Certificate) -> dict[str, Any]:
        """An authority as a trusted root names it."""
        return {
            "subject": {"organization": "test", "commonName": "Test"},
            "uri": self.url,
            "certChain": {"certificates": [{"rawBytes": b64(entry.public_bytes(Encoding.DER))} for entry in chain]},
            "validFor": {"start": self.since},
        }

    def _service(self, url: str, version: int = 1) -> list[dict[str, Any]]:
        return [{"url": url, "majorApiVersion": version, "validFor": {"start": self.since}, "operator": "test"}]

    def _config(self) -> dict[str, Any]:
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self._roots(),
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": self._service(self.url),
                "oidcUrls": self._service(self.provider.url),
                "rekorTlogUrls": self._service(self.url, self.version),
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": self._service(f"{self.url}/timestamp") if self.timestamps else [],
                "tsaConfig": {"selector": "ANY"},
            },
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                place = urlsplit(self.path)
                if place.path == "/provider/auth":
                    self.send_response(302)
                    self.send_header("Location", here.provider.log_in(place.query))
                    self.end_headers()
                    return
                self._send(*here._told(place.path, self.headers.get("Authorization", "")))

            def do_POST(self) -> None:
                here.asked.append(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._send(*here._answer(self.path, body, self.headers.get("Authorization", "")))

            def _send(self, status: int, answer: object) -> None:
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                kind = "application/timestamp-reply" if isinstance(answer, bytes) else "application/json"
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *words: Any) -> None:
                """Keep quiet."""

        return Handler

    def _told(self, path: str, authorization: str) -> tuple[int, object]:
        if path == "/provider/.well-known/openid-configuration":
            return 200, self.provider.configuration()
        if path == AMBIENT and authorization == "bearer ambient":
            return 200, {"value": self.provider.token("https://github.test/workflow@main")}
        return 404, {"message": f"there is no {path}"}

    def _answer(self, path: str, body: bytes, authorization: str) -> tuple[int, object]:
        if self.refuses and path.startswith(self.refuses):
            return 400, {"code": 3, "message": "refused by the test"}
        if path == "/provider/token":
            return 200, self.provider.redeem(body.decode())
        if path == "/api/v2/signingCert":
            name = self.provider.name_in(authorization.removeprefix("Bearer "))
            request = x509.load_pem_x509_csr(base64.b64decode(json.loads(body)["certificateSigningRequest"]))
            leaf = self.authority.certificate(name, request.public_key())
            chain = [leaf, self.authority.between, self.authority.root]
            words = [entry.public_bytes(Encoding.PEM).decode() for entry in chain]
            return 201, {"signedCertificateEmbeddedSct": {"chain": {"certificates": words}}}
        if path == "/api/v1/log/entries":
            return 201, self.log.add(json.loads(body), self.late)
        if path == "/api/v2/log/entries":
            return 201, self.log.add_v2(json.loads(body))
        if path == "/timestamp" and self.timestamps:
            return 201, self.timestamps.answer(body)
        return 404, {"message": f"there is no {path}"}
