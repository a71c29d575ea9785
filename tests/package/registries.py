"""Registries for tests: Debian's docker-registry on loopback, and one written for lying."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

__all__ = ["Liar", "Server", "lying", "make_authority", "running", "with_passwords"]

PROGRAM = shutil.which("docker-registry")


@dataclass(frozen=True)
class Server:
    """A registry that runs: where it listens, and where it stores what it has."""

    host: str
    store: Path

    def place(self, repository: str) -> str:
        return f"oci://{self.host}/{repository}"


@contextlib.contextmanager
def running(folder: Path, tls: tuple[Path, Path] | None = None, passwords: Path | None = None) -> Iterator[Server]:
    """Run docker-registry on a free loopback port; `tls` is a certificate and its key. Skips where it is absent."""
    if PROGRAM is None:
        pytest.skip("docker-registry is not installed (Debian: apt install docker-registry)")
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(_config(folder / "store", port, tls, passwords))
    log = (folder / "registry.log").open("wb")
    process = subprocess.Popen([PROGRAM, "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait(port, process)
        yield Server(f"127.0.0.1:{port}", folder / "store")
    finally:
        process.kill()
        process.wait()
        log.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def with_passwords(folder: Path, username: str, password: str) -> Path:
    """Write the htpasswd file that docker-registry reads (bcrypt). Skips where the program is absent."""
    program = shutil.which("htpasswd")
    if program is None:
        pytest.skip("htpasswd is not installed (Debian: apt install apache2-utils)")
    path = folder / "htpasswd"
    subprocess.run([program, "-cbB", str(path), username, password], check=True, capture_output=True)
    return path


def make_authority(folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate of it for 127.0.0.1; return authority, certificate and key as PEM files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry of a test")])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, extensions: list[x509.ExtensionType]
    ) -> bytes:
        builder = x509.CertificateBuilder(root_name, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    root = x509.BasicConstraints(ca=True, path_length=None)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    paths = folder / "authority.pem", folder / "registry.pem", folder / "registry.key"
    paths[0].write_bytes(certificate(root_name, root_key.public_key(), [root]))
    paths[1].write_bytes(certificate(name, key.public_key(), [names]))
    plain = serialization.NoEncryption()
    paths[2].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return paths


def _config(store: Path, port: int, tls: tuple[Path, Path] | None, passwords: Path | None) -> str:
    lines = [
        "version: 0.1",
        "log: {level: error, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: {store}}}, delete: {{enabled: true}}}}",
        f"http: {{addr: '127.0.0.1:{port}', secret: same-for-all-runs{_tls(tls)}}}",
    ]
    if passwords:
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {passwords}}}}}")
    return "\n".join(lines) + "\n"


def _tls(tls: tuple[Path, Path] | None) -> str:
    return "" if tls is None else f", tls: {{certificate: {tls[0]}, key: {tls[1]}}}"


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None, "docker-registry ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("docker-registry does not listen")


Answer = Callable[["Liar"], None]


class Liar(BaseHTTPRequestHandler):
    """One request to the lying registry; a test answers it by the first of its rules whose path it holds."""

    protocol_version = "HTTP/1.1"
    rules: list[tuple[str, Answer]]
    seen: list[tuple[str, str, dict[str, str]]]

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole answer; underscores in names of headers stand for hyphens."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def endless(self, piece: bytes) -> None:
        """Send the same bytes for as long as anybody listens."""
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(piece)

    def any_method(self) -> None:
        self.seen.append((self.command, self.path, dict(self.headers)))
        rule = next((rule for path, rule in self.rules if path in self.path), None)
        self.answer(404) if rule is None else rule(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = any_method

    def log_message(self, *_words: object) -> None:
        return


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_words: object) -> None:
        """A client that hangs up is what is tested."""


@contextlib.contextmanager
def lying(*rules: tuple[str, Answer]) -> Iterator[tuple[str, list[tuple[str, str, dict[str, str]]]]]:
    """Run a registry that answers by rules `(part of the path, how)`; give its host and the requests it has seen."""
    seen: list[tuple[str, str, dict[str, str]]] = []
    handler = type("Handler", (Liar,), {"rules": list(rules), "seen": seen})
    server = _Quiet(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
