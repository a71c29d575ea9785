"""Keys that stay in a token: SoftHSM 2 plays one. Run by `test_keys_pkcs11.py`, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.package.key_pairs import key
from tightship.errors import SealError, UnsupportedError, UsageError
from tightship.package import keys, pkcs11
from tightship.package.recipients import unwrap, wrap
from tightship.package.signing import sign, verify

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
MODULE = next(filter(os.path.exists, MODULES), "")
PIN = "1234"
DIGESTS = {"model.onnx": "0" * 64}

pytestmark = pytest.mark.skipif(not (MODULE and shutil.which("softhsm2-util")), reason="softhsm2 is not installed")


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a token.

    In it are `seal` and `idle`, which may do nothing, of RSA-3072, `short` of RSA-2048 and `sign` of EC P-256.
    """
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        words = ["softhsm2-util", "--init-token", "--free", "--label", "safe", "--pin", PIN, "--so-pin", "5678"]
        subprocess.run(words, check=True, capture_output=True)
        _fill()
        yield f"pkcs11:token=safe;object={{}}?module-path={MODULE}&pin-value={PIN}"


def _fill() -> None:
    import pkcs11 as library
    from pkcs11.util.ec import encode_named_curve_parameters
    from pkcs11.util.rsa import decode_rsa_private_key

    with library.lib(MODULE).get_token(token_label="safe").open(rw=True, user_pin=PIN) as session:
        session.generate_keypair(library.KeyType.RSA, 3072, label="seal", id=b"\x01", store=True)
        pkcs1 = key("rsa-3072").secret.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        idle = {library.Attribute.SIGN: False, library.Attribute.DECRYPT: False, library.Attribute.TOKEN: True}
        session.create_object({**decode_rsa_private_key(pkcs1), **idle, library.Attribute.LABEL: "idle"})
        session.generate_keypair(library.KeyType.RSA, 2048, label="short", id=b"\x02", store=True)
        curve = {library.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(library.KeyType.EC, curve, local=True)
        parameters.generate_keypair(label="sign", id=b"\x03", store=True)


def test_a_key_in_a_token_opens_what_was_sealed_for_it(token: str, tmp_path: Path) -> None:
    held = keys.load_private(token.format("seal"))
    (tmp_path / "seal.pub").write_bytes(keys.public_pem(held.public))
    public = keys.load_public(tmp_path / "seal.pub")
    assert (held.kind, public) == ("rsa-3072", held.public)
    assert unwrap(wrap(bytes(32), b"package", [public]), b"package", held) == bytes(32)
    with pytest.raises(SealError):
        unwrap(wrap(bytes(32), b"package", [public]), b"another", held)


def test_the_public_key_tells_which_hash_the_token_s_oaep_takes(token: str) -> None:
    held = keys.load_private(token.format("seal"))
    pem = keys.public_pem(held.public)
    assert pem.startswith(b"OAEP-Hash: sha1\n") == (held.public.oaep_hash == "sha1")
    assert wrap(bytes(32), b"", [held.public])[0].suite == f"rsa-oaep-{held.public.oaep_hash}-aes-256-gcm"


def test_a_changed_wrap_gets_the_uniform_answer_from_a_token_too(token: str) -> None:
    import base64
    from dataclasses import replace

    held = keys.load_private(token.format("seal"))
    (whole,) = wrap(bytes(32), b"package", [held.public])
    for length in (384, 383, 0):
        with pytest.raises(SealError) as caught:
            unwrap([replace(whole, encapsulated=base64.b64encode(b"\x01" * length).decode())], b"package", held)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(("label", "kind"), [("sign", "ec-p256"), ("seal", "rsa-3072")])
def test_a_key_in_a_token_signs(label: str, kind: str, token: str) -> None:
    held = keys.load_private(token.format(label))
    assert verify(sign(DIGESTS, "m", held), DIGESTS, [held.public]).kind == kind


def test_a_key_is_found_by_its_id_and_by_all_that_a_uri_says(token: str) -> None:
    by_id = token.replace("object={}", "id=%03;type=private;manufacturer=SoftHSM%20project;model=SoftHSM%20v2")
    assert keys.load_private(by_id).kind == "ec-p256"
    with pytest.raises(UsageError, match="0 tokens fit the URI"):
        keys.load_private(by_id.replace("SoftHSM%20v2", "Other"))


def test_the_pin_may_come_from_a_file_or_the_environment(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pin"
    file.touch(0o600)
    file.write_text(f"{PIN}\n")
    monkeypatch.setenv("TOKEN_PIN", PIN)
    for source in (f"file:{file}", str(file), "env:TOKEN_PIN"):
        uri = token.format("sign").replace(f"pin-value={PIN}", f"pin-source={source}")
        assert keys.load_private(uri).kind == "ec-p256"


def test_the_module_may_come_from_the_environment(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = token.format("sign").replace(f"module-path={MODULE}&", "")
    with pytest.raises(UsageError, match="which PKCS#11 module"):
        keys.load_private(uri)
    monkeypatch.setenv(pkcs11.MODULE_VARIABLE, MODULE)
    assert keys.load_private(uri).kind == "ec-p256"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("token=safe", "token=other", "0 tokens fit the URI, expected 1"),
        ("pin-value=1234", "pin-value=9999", "PinIncorrect"),
        ("object=sign", "object=nothing", "no one key 'nothing': NoSuchKey"),
        ("libsofthsm2", "libnothing", "cannot be opened by"),
        ("object=sign", "objekt=sign", "'objekt' in the pkcs11 URI: expected each of"),
        ("object=sign", "object=sign;object=seal", "'object' in the pkcs11 URI"),
        (";object=sign", "", "names no key; expected object=LABEL or id="),
        ("object=sign", "object=sign;type=public", "names a public object"),
    ],
)
def test_a_wrong_uri_is_one_typed_error_that_says_what_is_wrong(old: str, new: str, message: str, token: str) -> None:
    with pytest.raises(UsageError, match=message):
        keys.load_private(token.format("sign").replace(old, new))


def test_a_key_that_may_neither_sign_nor_decrypt_says_so(token: str) -> None:
    idle = keys.load_private(token.format("idle"))
    with pytest.raises(UsageError, match="the token's key 'idle' may not sign"):
        sign(DIGESTS, "m", idle)
    with pytest.raises(UsageError, match="the token's key 'idle' may not decrypt"):
        unwrap(wrap(bytes(32), b"package", [idle.public]), b"package", idle)


def test_a_short_rsa_key_is_refused(token: str) -> None:
    with pytest.raises(UnsupportedError, match="a key of type rsa-2048"):
        keys.load_private(token.format("short"))


def test_a_key_in_a_token_is_not_written_and_its_pin_not_shown(token: str, tmp_path: Path) -> None:
    held = keys.load_private(token.format("sign"))
    assert PIN not in repr(held)
    assert PIN not in repr(held.secret)
    with pytest.raises(UsageError, match="lies in a token, which does not give it away"):
        keys.write_pair(held, tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []
