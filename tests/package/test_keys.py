"""Key pairs: what is written, who may read it, and where else a key may come from."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from tests.package.key_pairs import key
from tightship.api import keying
from tightship.cli.commands import keys as keys_command
from tightship.errors import OutputError, SealError, UnsupportedError, UsageError
from tightship.package import keys
from tightship.package.refusal import REFUSAL


@pytest.mark.parametrize("kind", keys.KINDS)
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_pair_that_is_written_is_the_pair_that_is_read(kind: str, passphrase: bytes | None, tmp_path: Path) -> None:
    private, public = keys.write_pair(key(kind), tmp_path / "mine", passphrase)
    assert (private.name, public.name) == ("mine.key", "mine.pub")
    read = keys.load_private(private, passphrase)
    assert read.kind == kind
    assert read.public == keys.load_public(public) == key(kind).public
    assert keys.public_pem(read.public) == public.read_bytes()


@pytest.mark.parametrize("kind", keys.KINDS)
def test_a_private_key_is_for_its_owner_alone(kind: str, tmp_path: Path) -> None:
    private, _ = keys.write_pair(key(kind), tmp_path / "mine")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", keys.KINDS)
def test_the_passphrase_covers_all_of_a_private_key(kind: str, tmp_path: Path) -> None:
    private, _ = keys.write_pair(key(kind), tmp_path / "mine", b"correct horse")
    labels = [line for line in private.read_text().splitlines() if line.startswith("-----BEGIN")]
    assert set(labels) == {"-----BEGIN ENCRYPTED PRIVATE KEY-----"}


def test_keys_are_never_overwritten_unless_forced(tmp_path: Path) -> None:
    private, public = keys.write_pair(key("x25519"), tmp_path / "mine")
    before = private.read_bytes(), public.read_bytes()
    with pytest.raises(OutputError, match=r"mine\.key exists"):
        keys.write_pair(key("ed25519"), tmp_path / "mine")
    assert (private.read_bytes(), public.read_bytes()) == before
    keys.write_pair(key("ed25519"), tmp_path / "mine", force=True)
    assert keys.load_private(private).public == keys.load_public(public) == key("ed25519").public


def test_a_public_key_alone_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / "mine.pub").write_text("someone's")
    with pytest.raises(OutputError, match=r"mine\.pub exists"):
        keys.write_pair(key("x25519"), tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pub"]


def test_the_id_of_a_key_is_the_digest_of_its_subject_public_key_info() -> None:
    der = key("ec-p256").public.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key("ec-p256").public.id == hashlib.sha256(der).hexdigest()


def test_a_hybrid_is_two_standard_keys_one_after_the_other(tmp_path: Path) -> None:
    _, public = keys.write_pair(key("mlkem768-x25519"), tmp_path / "mine")
    first, second = public.read_bytes().split(b"-----END PUBLIC KEY-----\n")[:2]
    end = b"-----END PUBLIC KEY-----\n"
    parts = [load_pem_public_key(first + end), load_pem_public_key(second + end)]
    der = [part.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for part in parts]
    assert isinstance(parts[0], mlkem.MLKEM768PublicKey)
    assert key("mlkem768-x25519").public.id == hashlib.sha256(b"".join(der)).hexdigest()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_a_private_key_that_others_can_reach_is_refused_with_the_command_that_mends_it(
    mode: int, tmp_path: Path
) -> None:
    private, _ = keys.write_pair(key("x25519"), tmp_path / "mine")
    private.chmod(mode)
    with pytest.raises(UsageError, match=f"mode {mode:04o}, expected 0600.*chmod 600"):
        keys.load_private(private)


def test_a_private_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    private, _ = keys.write_pair(key("ed25519"), tmp_path / "mine")
    monkeypatch.setenv("SIGNING_KEY", private.read_text())
    assert keys.load_private("env:SIGNING_KEY").public == key("ed25519").public
    with pytest.raises(UsageError, match="the environment has no OTHER"):
        keys.load_private("env:OTHER")


def test_a_private_key_comes_from_a_file_descriptor(tmp_path: Path) -> None:
    private, _ = keys.write_pair(key("ed25519"), tmp_path / "mine")
    descriptor = os.open(private, os.O_RDONLY)
    try:
        assert keys.load_private(f"fd:{descriptor}").public == key("ed25519").public
    finally:
        os.close(descriptor)
    with pytest.raises(UsageError, match="fd:99 cannot be read"):
        keys.load_private("fd:99")
    with pytest.raises(UsageError, match="fd:x cannot be read"):
        keys.load_private("fd:x")


def test_an_encrypted_key_wants_its_passphrase_and_a_wrong_one_gets_the_uniform_answer(tmp_path: Path) -> None:
    private, _ = keys.write_pair(key("mlkem768-x25519"), tmp_path / "mine", b"correct horse")
    with pytest.raises(UsageError, match="is encrypted; give its passphrase"):
        keys.load_private(private)
    with pytest.raises(SealError) as caught:
        keys.load_private(private, b"battery staple")
    assert str(caught.value) == REFUSAL


def test_a_passphrase_that_a_key_does_not_need_is_not_used(tmp_path: Path) -> None:
    private, _ = keys.write_pair(key("x25519"), tmp_path / "mine")
    assert keys.load_private(private, b"not needed").public == key("x25519").public


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty passphrase"):
        keys.write_pair(key("x25519"), tmp_path / "mine", b"")
    (tmp_path / "empty").touch(0o600)
    with pytest.raises(UsageError, match="is empty; expected a passphrase"):
        keys.load_passphrase(tmp_path / "empty")


def test_the_newline_at_the_end_of_a_passphrase_file_is_not_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.touch(0o600)
    file.write_bytes(b" correct horse \r\n")
    assert keys.load_passphrase(file) == b" correct horse "


def test_public_and_private_keys_are_not_taken_for_each_other(tmp_path: Path) -> None:
    private, public = keys.write_pair(key("x25519"), tmp_path / "mine")
    public.chmod(0o600)
    with pytest.raises(UsageError, match="holds a public key; expected a private one"):
        keys.load_private(public)
    with pytest.raises(UsageError, match="holds a private key, which is to be shown to nobody"):
        keys.load_public(private)


@pytest.mark.parametrize(
    ("secret", "found"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), "rsa-2048"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "ec on secp384r1"),
        (mlkem.MLKEM768PrivateKey.generate, "MLKEM768PublicKey"),
    ],
)
def test_other_kinds_of_keys_are_refused_by_name(secret: object, found: str, tmp_path: Path) -> None:
    made = secret()  # type: ignore[operator]
    pem = tmp_path / "other.pub"
    pem.write_bytes(made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(UnsupportedError, match=f"a key of type {found}; expected one of rsa-3072"):
        keys.load_public(pem)


def test_keys_that_openssl_wrote_are_read(tmp_path: Path) -> None:
    secret = key("ec-p256").secret
    file = tmp_path / "openssl.pem"
    file.touch(0o600)
    file.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    assert keys.load_private(file).public == key("ec-p256").public


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_key_that_openssl_encrypted_with_scrypt_is_read(tmp_path: Path) -> None:
    plain, _ = keys.write_pair(key("ed25519"), tmp_path / "plain")
    words = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-scrypt",
        "-in",
        plain,
        "-out",
        tmp_path / "dear.key",
        "-passout",
        "pass:horse",
    ]
    subprocess.run(words, check=True, capture_output=True)
    (tmp_path / "dear.key").chmod(0o600)
    assert keys.load_private(tmp_path / "dear.key", b"horse").public == key("ed25519").public


@pytest.mark.parametrize("n_bytes", range(0, 112, 11))
def test_a_truncated_key_is_one_typed_error(n_bytes: int, tmp_path: Path) -> None:
    private, public = keys.write_pair(key("ed25519"), tmp_path / "mine")
    private.write_bytes(private.read_bytes()[:n_bytes])
    public.write_bytes(public.read_bytes()[:n_bytes])
    with pytest.raises(UsageError, match=r"mine\.key"):
        keys.load_private(private)
    with pytest.raises(UsageError, match=r"mine\.pub"):
        keys.load_public(public)


@pytest.mark.parametrize("junk", [b"", b"\x00" * 100, b"-----BEGIN X-----" * 5000, b"a" * (1 << 20)])
def test_what_is_no_key_is_one_typed_error(junk: bytes, tmp_path: Path) -> None:
    file = tmp_path / "junk"
    file.touch(0o600)
    file.write_bytes(junk)
    for load in (keys.load_private, keys.load_public):
        with pytest.raises(UsageError, match="junk"):
            load(file)


def test_two_keys_in_one_file_are_a_hybrid_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "two.pub"
    file.write_bytes(keys.public_pem(key("x25519").public) + keys.public_pem(key("ed25519").public))
    with pytest.raises(UnsupportedError, match="two keys in one file are ML-KEM-768 and then X25519"):
        keys.load_public(file)


def test_an_unknown_type_gets_the_nearest_known_one() -> None:
    with pytest.raises(UsageError, match=r"no key type 'ed25518' \(did you mean 'ed25519'\?\)"):
        keys.new_key("ed25518")


def test_a_key_shows_nothing_secret_when_printed() -> None:
    for kind in keys.KINDS:
        assert "object at" not in repr(key(kind))


def test_the_command_writes_and_shows_a_pair(tmp_path: Path) -> None:
    name, run = str(tmp_path / "mine"), CliRunner()
    made = run.invoke(keys_command.command, ["new", "--type", "x25519", "-o", name])
    assert made.exit_code == 0, made.output
    shown = run.invoke(keys_command.command, ["show", f"{name}.pub"])
    report = keying.show_key(f"{name}.key")
    assert report.id in made.output
    assert report.id in shown.output
    assert (report.kind, report.signs, report.receives) == ("x25519", False, True)


def test_the_help_names_every_type_of_key() -> None:
    help_text = CliRunner().invoke(keys_command.command, ["new", "--help"]).output
    assert [kind for kind in keys.KINDS if kind not in help_text] == []


def test_the_public_half_of_a_private_key_can_be_written_anew(tmp_path: Path) -> None:
    private, public = keys.write_pair(key("rsa-3072"), tmp_path / "mine")
    keying.show_key(private, public=tmp_path / "again.pub")
    assert (tmp_path / "again.pub").read_bytes() == public.read_bytes()
    with pytest.raises(OutputError, match=r"again\.pub exists"):
        keying.show_key(private, public=tmp_path / "again.pub")


def test_the_passphrase_of_a_new_key_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.touch(0o600)
    file.write_text("correct horse\n")
    made = keying.new_key("ed25519", tmp_path / "mine", file)
    assert made.private is not None
    assert keys.load_private(made.private, b"correct horse").public.id == made.id


def test_a_signing_key_of_cryptography_is_what_is_kept() -> None:
    assert isinstance(key("ed25519").secret, ed25519.Ed25519PrivateKey)
