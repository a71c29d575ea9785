"""Handshakes with the context that HTTP connections are wrapped in; gRPC's are in `test_grpc_service.py`."""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.serve.certificates import Authority, Issued
from tightship.errors import UsageError
from tightship.serve.tls import TlsFiles


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Issued:
    return authority.issue("server")


@pytest.fixture(scope="module")
def files(server: Issued) -> TlsFiles:
    return TlsFiles(server.certificate, server.key)


def client(authority: Authority, shows: Issued | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if shows is not None:
        context.load_cert_chain(shows.certificate, shows.key)
    return context


def greet(files: TlsFiles, context: ssl.SSLContext) -> str | None:
    """Connect, and return the version of TLS that both agreed on after a byte went each way."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with files.context().wrap_socket(theirs, server_side=True) as wrapped:
                wrapped.sendall(wrapped.recv(1))
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context.wrap_socket(ours, server_hostname="localhost") as wrapped:
            wrapped.sendall(b"x")
            assert wrapped.recv(1) == b"x"
            return wrapped.version()
    finally:
        ours.close()
        thread.join()


def test_a_client_that_trusts_the_authority_is_answered(files: TlsFiles, authority: Authority) -> None:
    assert greet(files, client(authority)) == "TLSv1.3"


def test_tls_1_2_is_spoken_and_nothing_older(files: TlsFiles, authority: Authority) -> None:
    context = client(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert greet(files, context) == "TLSv1.2"
    assert files.context().minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_client_without_a_certificate_is_turned_away_by_mutual_tls(files: TlsFiles, authority: Authority) -> None:
    mutual = replace(files, clients=authority.certificate)
    assert mutual.mutual and not files.mutual
    assert greet(mutual, client(authority, authority.issue("phone"))) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        greet(mutual, client(authority))


def test_a_clients_certificate_of_another_authority_is_turned_away(
    files: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "elsewhere").issue("stranger")
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        greet(replace(files, clients=authority.certificate), client(authority, stranger))


@pytest.mark.parametrize("broken", ["certificate", "key", "clients"])
def test_a_file_that_is_none_is_named(files: TlsFiles, tmp_path: Path, broken: str) -> None:
    for path in (tmp_path / "missing.pem", tmp_path / "rubbish.pem"):
        if path.stem == "rubbish":
            path.write_text("-----BEGIN CERTIFICATE-----\nrubbish\n")
        with pytest.raises(UsageError, match=f"{path.name}.*expected a PEM certificate"):
            replace(files, **{broken: path}).check()


def test_the_key_of_another_certificate_is_refused(files: TlsFiles, authority: Authority) -> None:
    with pytest.raises(UsageError, match="TLS cannot be set up"):
        replace(files, key=authority.issue("other").key).check()


def test_a_key_behind_a_passphrase_is_refused_instead_of_asked_for(files: TlsFiles, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(files.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")))
    with pytest.raises(UsageError, match="unencrypted PEM private key"):
        replace(files, key=locked).check()
