"""Keyless signatures where Sigstore's library is not there: what is refused, told and asked for before it is needed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests import nets
from tests.package.certificate_chain import Chain
from tests.package.key_pairs import key
from tests.package.local_sigstore.service import LocalSigstore
from tightship import api
from tightship.api import Identity, Keyless, Keys, Sigstore
from tightship.cli import main
from tightship.core import extras
from tightship.errors import MissingExtra, SignatureError, UsageError
from tightship.package.archive import ArchiveWriter
from tightship.package.envelope import Envelope
from tightship.package.keyless import read_token
from tightship.package.manifest import SIGNATURE
from tightship.package.signing import claim, sign, verify

DIGESTS = {"model.onnx": "0" * 64}
ALICE = "alice@example.com"


@pytest.fixture(scope="module")
def service() -> LocalSigstore:
    """Asked for no answers here, only for bundles."""
    return LocalSigstore()


@pytest.fixture
def document(service: LocalSigstore) -> dict[str, Any]:
    return service.bundle(ALICE, DIGESTS)


@pytest.fixture(autouse=True)
def without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    here = extras.available
    monkeypatch.setattr(extras, "available", lambda module: module != "sigstore" and here(module))


def bundle(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def packed(folder: Path, document: dict[str, Any]) -> Path:
    """A package with that signature on it, whatever it signs."""
    place = folder / "m.ship"
    api.pack([nets.save(nets.mlp(8), folder, "m.onnx")], place)
    with Envelope(place) as envelope:
        entries = list(envelope.archive.entries.values())
    with place.open("r+b") as file:
        writer = ArchiveWriter(file, entries)
        writer.add(SIGNATURE, bundle(document))
        writer.finish()
    return place


def test_without_an_identity_the_error_says_what_to_give_and_whom_the_signature_claims(
    document: dict[str, Any], service: LocalSigstore
) -> None:
    with pytest.raises(SignatureError) as error:
        verify(bundle(document), DIGESTS, [key("ec-p256").public, Chain().root])
    assert f"by '{ALICE}' of '{service.provider.url}' (it says so; not verified)" in str(error.value)
    assert "--identity NAME --identity-provider URL" in str(error.value)


def test_with_an_identity_the_missing_library_is_named_with_its_command(document: dict[str, Any]) -> None:
    with pytest.raises(MissingExtra, match=r"keyless signature needs sigstore.*pip install 'tightship\[sigstore\]'"):
        verify(bundle(document), DIGESTS, [Identity(ALICE, "https://accounts.example.com")])


def test_signing_without_the_library_names_its_command_and_writes_nothing(tmp_path: Path) -> None:
    file, place = nets.save(nets.mlp(8), tmp_path, "m.onnx"), tmp_path / "m.ship"
    with pytest.raises(MissingExtra, match=r"pip install 'tightship\[sigstore\]'"):
        api.pack([file], place, sign_with=Keyless("env:TOKEN"))
    assert not place.exists()
    api.pack([file], place)
    before = place.read_bytes()
    with pytest.raises(MissingExtra, match=r"pip install 'tightship\[sigstore\]'"):
        api.sign(place, Keyless("env:TOKEN"))
    assert place.read_bytes() == before


def test_an_identity_does_not_vouch_for_keys_and_chains() -> None:
    identity, chain = Identity(ALICE, "https://accounts.example.com"), Chain()
    with pytest.raises(SignatureError, match="by a key that is not trusted"):
        verify(sign(DIGESTS, "m", key("ec-p256")), DIGESTS, [identity])
    with pytest.raises(SignatureError, match="no root is trusted"):
        verify(sign(DIGESTS, "m", key("ec-p256"), chain.chain), DIGESTS, [identity])


@pytest.mark.parametrize(("name", "provider"), [("", "https://a"), (ALICE, ""), ("", "")])
def test_an_identity_is_a_name_and_a_provider(name: str, provider: str) -> None:
    with pytest.raises(UsageError, match="give both: --identity"):
        Identity(name, provider)


def put(what: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for word in path[:-1]:
            document = document[word]
        document[path[-1]] = what

    return change


MATERIAL = "verificationMaterial"
NO_NAME = base64.b64encode(Chain().root.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(None, MATERIAL, "certificate"), "certificate in the signature cannot be read"),
        (put([], MATERIAL, "certificate"), "certificate in the signature cannot be read"),
        (put({}, MATERIAL, "certificate"), "certificate in the signature cannot be read"),
        (put({"rawBytes": "%"}, MATERIAL, "certificate"), "certificate in the signature cannot be read"),
        (put({"rawBytes": ""}, MATERIAL, "certificate"), "certificate in the signature cannot be read"),
        (put({"rawBytes": "MAA="}, MATERIAL, "certificate"), "certificate in the signature cannot be read"),
        (put({"rawBytes": NO_NAME.decode()}, MATERIAL, "certificate"), "certificate in the signature cannot be read"),
        (put({"hint": ""}, MATERIAL, "publicKey"), "it says in two ways who signed"),
        (put({}, MATERIAL, "x509CertificateChain"), "it says in two ways who signed"),
        (put([], MATERIAL), "material is not an object"),
        (put("application/json", "mediaType"), "its media type is 'application/json'"),
        (put("text/plain", "dsseEnvelope", "payloadType"), "its payload is 'text/plain'"),
        (put([], "dsseEnvelope", "signatures"), "it holds 0 signatures, expected 1"),
        (put("%", "dsseEnvelope", "payload"), "not a Sigstore bundle"),
        (put({}, "dsseEnvelope"), "it has no 'payloadType'"),
    ],
)
def test_malformed_bundles_are_refused_before_the_library_sees_them(
    change: Callable[[dict[str, Any]], None], message: str, document: dict[str, Any]
) -> None:
    change(document)
    with pytest.raises(SignatureError, match=message):
        verify(bundle(document), DIGESTS, [Identity(ALICE, "https://accounts.example.com")])


def test_flipped_bits_in_the_certificate_end_in_one_type(document: dict[str, Any]) -> None:
    whole = base64.b64decode(document[MATERIAL]["certificate"]["rawBytes"])
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 1 << (position % 8)
        document[MATERIAL]["certificate"]["rawBytes"] = base64.b64encode(data).decode()
        with pytest.raises(SignatureError):
            verify(bundle(document), DIGESTS, [])


def test_what_is_claimed_cannot_write_on_the_terminal(service: LocalSigstore) -> None:
    claimed = claim(bundle(service.bundle("https://e.test/\x1b[2J" + "a" * 1000, DIGESTS)))
    assert str(claimed).isprintable()
    assert len(str(claimed)) < 900


def test_a_workflow_is_claimed_by_its_uri(service: LocalSigstore) -> None:
    claimed = claim(bundle(service.bundle("https://github.com/o/r/.github/workflows/w.yml@refs/heads/main", DIGESTS)))
    assert claimed is not None
    assert claimed.name == "https://github.com/o/r/.github/workflows/w.yml@refs/heads/main"
    assert claimed.provider == service.provider.url
    assert claim(sign(DIGESTS, "m", key("ec-p256"))) is None


def test_verify_and_inspect_tell_the_claim_as_such(tmp_path: Path, document: dict[str, Any]) -> None:
    place = packed(tmp_path, document)
    with pytest.raises(
        SignatureError, match=rf"m\.ship: the signature is keyless, by '{ALICE}' of .* \(it says so; not"
    ):
        api.verify(place)
    described = api.inspect(place)
    assert isinstance(described, api.inspecting.PackageDescription)
    assert described.claimed.startswith(f"'{ALICE}'")
    assert described.signed_by == ""
    with pytest.raises(MissingExtra):
        api.inspect(place, keys=Keys(identity=Identity(ALICE, "https://accounts.example.com")))


def test_every_command_that_opens_packages_takes_an_identity(
    tmp_path: Path, document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    place = packed(tmp_path, document)
    words = ["--identity", ALICE, "--identity-provider", "https://accounts.example.com"]
    for command in (["verify", str(place)], ["open", str(place), "-o", str(tmp_path / "out")], ["inspect", str(place)]):
        assert main([*command, *words]) == 6
        assert "tightship[sigstore]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["verify", str(place), "--identity", ALICE]) == 2
    assert "give both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sigstore", "--with", "a.key"], "give one of them"),
        ([], "give one of them"),
        (["--with", "a.key", "--identity-token", "x"], "are for --sigstore; add it"),
        (["--with", "a.key", "--staging"], "are for --sigstore; add it"),
        (["--sigstore", "--certificate", "c.pem"], "certificates are of a key"),
        (["--sigstore", "--staging", "--trust-config", "c.json"], "leave out --staging and --offline"),
    ],
)
def test_options_of_signing_that_do_not_go_together_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sign", "m.ship", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_trust_configuration_names_its_own_service() -> None:
    with pytest.raises(UsageError, match="leave out --staging and --offline"):
        Sigstore(offline=True, trust_config="c.json")


def test_a_token_is_taken_as_it_is_or_from_where_it_is_kept(
    tmp_path: Path, service: LocalSigstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.provider.token(ALICE)
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    file.chmod(0o600)
    monkeypatch.setenv("TOKEN", token)
    assert read_token(token) == read_token(str(file)) == read_token("env:TOKEN") == token
    assert token not in repr(Keyless(token))


def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret words")
    with pytest.raises(UsageError, match=r"\$TOKEN holds no identity token; expected a JSON Web Token") as error:
        read_token("env:TOKEN")
    assert "secret words" not in str(error.value)
    file = tmp_path / "token"
    file.write_text("open to others")
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        read_token(str(file))
