"""Keyless signatures with Sigstore's own library, which is not changed, against a Sigstore of our own on loopback.

TIGHTSHIP_INTEROP names a Python that has `sigstore` and `model-signing`, which cannot share our environment; tightship
runs in it with what else it needs from ours. The public service is not reached: see `docs/keys.md`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests import nets
from tests.package.key_pairs import key
from tests.package.keyless_tools import ALICE, DIGESTS, MARKS, PATHS, WORKFLOW, expected, judged, ours, run, theirs
from tests.package.local_sigstore.service import AMBIENT, LocalSigstore
from tightship import api
from tightship.package.envelope import Envelope
from tightship.package.keys import write_pair

pytestmark = MARKS

SIGN_IN_A_BROWSER = PATHS + (
    "from tightship.api import Keyless, Sigstore, sign; "
    "sign(sys.argv[1], Keyless(service=Sigstore(trust_config=sys.argv[2]), ask=print))"
)


@pytest.fixture(scope="module")
def service() -> Iterator[LocalSigstore]:
    with LocalSigstore() as running:
        yield running


@pytest.fixture
def trust(service: LocalSigstore, tmp_path: Path) -> Path:
    return service.trust_config(tmp_path / "trust.json")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("plain")
    api.pack([nets.save(nets.mlp(8), folder, "m.onnx")], folder / "m.ship")
    return (folder / "m.ship").read_bytes()


@pytest.fixture
def package(plain: bytes, tmp_path: Path) -> Path:
    place = tmp_path / "m.ship"
    place.write_bytes(plain)
    return place


def signed(package: Path, service: LocalSigstore, trust: Path) -> Path:
    words = ("--sigstore", "--identity-token", "-", "--trust-config", trust)
    done = ours("sign", package, *words, asked=service.provider.token(ALICE))
    assert done.returncode == 0, done.stdout + done.stderr
    return package


def test_what_is_signed_through_sigstore_verifies_for_its_signer_alone(
    package: Path, service: LocalSigstore, trust: Path
) -> None:
    service.asked.clear()
    signed(package, service, trust)
    assert service.asked == ["/api/v2/signingCert", "/api/v1/log/entries"]
    done = ours("verify", package, *expected(service, trust), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    signer = json.loads(done.stdout)["signer"]
    assert (signer["kind"], signer["subject"], signer["provider"]) == ("sigstore", ALICE, service.provider.url)
    other = ours("verify", package, *expected(service, trust, "mallory@example.com"))
    assert other.returncode == 12
    assert f"the signature is by '{ALICE}'" in other.stderr.replace("\n", " ")


def test_the_roots_alone_are_enough_to_verify(
    package: Path, service: LocalSigstore, trust: Path, tmp_path: Path
) -> None:
    signed(package, service, trust)
    done = ours("verify", package, *expected(service, service.trusted_root(tmp_path / "root.json")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "signed by alice@example.com of" in done.stdout


def test_packing_signs_in_one_step_and_model_signing_verifies_the_opened_folder(
    service: LocalSigstore, trust: Path, tmp_path: Path
) -> None:
    file, place = nets.save(nets.mlp(8), tmp_path, "m.onnx"), tmp_path / "m.ship"
    words = ("--sigstore", "--identity-token", "env:TOKEN", "--trust-config", trust)
    done = ours("pack", file, "-o", place, *words, TOKEN=service.provider.token(ALICE))
    assert done.returncode == 0, done.stdout + done.stderr
    done = ours("open", place, "-o", tmp_path / "out", *expected(service, trust))
    assert done.returncode == 0, done.stdout + done.stderr
    whose = ("--identity", ALICE, "--identity_provider", service.provider.url, "--trust_config", trust)
    opened = tmp_path / "out"
    done = theirs("verify", "sigstore", opened, "--signature", opened / "signature.json", *whose)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sealed_package_is_signed_and_verified_unopened(service: LocalSigstore, trust: Path, tmp_path: Path) -> None:
    _, public = write_pair(key("x25519"), tmp_path / "receiver")
    api.pack([nets.save(nets.mlp(8), tmp_path, "m.onnx")], tmp_path / "m.ship", seal_to=[public])
    done = ours("verify", signed(tmp_path / "m.ship", service, trust), *expected(service, trust))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it is as it was signed, and was not opened" in " ".join(done.stdout.split())


def test_a_changed_package_is_refused_though_its_signature_holds(
    package: Path, service: LocalSigstore, trust: Path
) -> None:
    data = bytearray(signed(package, service, trust).read_bytes())
    data[data.index(b"intended_use") + 2] ^= 1
    package.write_bytes(data)
    done = ours("verify", package, *expected(service, trust))
    assert done.returncode in (11, 12), done.stdout + done.stderr


def test_the_token_of_the_surroundings_is_taken(package: Path, service: LocalSigstore, trust: Path) -> None:
    surroundings = {
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "ambient",
        "ACTIONS_ID_TOKEN_REQUEST_URL": service.url + AMBIENT,
    }
    done = ours("sign", package, "--sigstore", "--trust-config", trust, **surroundings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ours("verify", package, *expected(service, trust, WORKFLOW)).returncode == 0


def test_without_a_token_and_a_terminal_the_error_says_what_to_give(package: Path, trust: Path) -> None:
    before = package.read_bytes()
    done = ours("sign", package, "--sigstore", "--trust-config", trust)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "give one with --identity-token" in done.stderr
    assert package.read_bytes() == before


def test_a_browser_asks_who_signs(package: Path, service: LocalSigstore, trust: Path, tmp_path: Path) -> None:
    visit = tmp_path / "visit.py"
    visit.write_text("import sys, urllib.request\nurllib.request.urlopen(sys.argv[1]).read()\n")
    done = run(SIGN_IN_A_BROWSER, package, trust, BROWSER=f"{sys.executable} {visit} %s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"there is no identity token, so {service.provider.url} asks who you are")
    assert ours("verify", package, *expected(service, trust)).returncode == 0


@pytest.mark.parametrize("refuses", ["/api/v2/signingCert", "/api/v1/log/entries"])
def test_what_the_service_refuses_ends_with_one_error_and_the_old_package(
    refuses: str, package: Path, service: LocalSigstore, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "refuses", refuses)
    before, token = package.read_bytes(), service.provider.token(ALICE)
    done = ours("sign", package, "--sigstore", "--identity-token", token, "--trust-config", trust)
    assert done.returncode == 12, done.stdout + done.stderr
    assert done.stderr.startswith("error: Sigstore did not sign: ")
    assert token not in done.stderr
    assert package.read_bytes() == before


def test_a_service_that_answers_wrongly_is_found_out_before_the_package_changes(
    package: Path, service: LocalSigstore, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "late", timedelta(hours=1))
    before = package.read_bytes()
    words = ("--identity-token", service.provider.token(ALICE), "--trust-config", trust)
    done = ours("sign", package, "--sigstore", *words)
    assert done.returncode == 12
    assert "Sigstore did not sign" in done.stderr
    assert package.read_bytes() == before


def test_a_token_that_is_past_and_a_service_that_is_away_are_told(
    package: Path, service: LocalSigstore, trust: Path
) -> None:
    old = service.provider.token(ALICE, iat=1, exp=2)
    done = ours("sign", package, "--sigstore", "--identity-token", old, "--trust-config", trust)
    assert done.returncode == 12
    assert "IdentityError" in done.stderr
    token = service.provider.token(ALICE)
    away = trust.with_name("away.json")
    away.write_text(trust.read_text().replace(service.url, "http://127.0.0.1:9"))
    done = ours("sign", package, "--sigstore", "--identity-token", token, "--trust-config", away)
    assert done.returncode == 12
    assert "Connection" in done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the authority of timestamps is OpenSSL's")
@pytest.mark.parametrize("version", [1, 2])
def test_timestamps_and_both_versions_of_the_log_verify(version: int, package: Path, tmp_path: Path) -> None:
    """The public service gives timestamps; a log of version 2 says no time itself."""
    (tmp_path / "tsa").mkdir()
    with LocalSigstore(version, tmp_path / "tsa") as service:
        trust = service.trust_config(tmp_path / "trust.json")
        signed(package, service, trust)
        assert service.asked == ["/api/v2/signingCert", "/timestamp", f"/api/v{version}/log/entries"]
    with Envelope(package) as envelope:
        material = json.loads(envelope.signature)["verificationMaterial"]
    assert len(material["timestampVerificationData"]["rfc3161Timestamps"]) == 1
    done = ours("verify", package, *expected(service, trust))
    assert done.returncode == 0, done.stdout + done.stderr
    assert ours("verify", package, *expected(service, trust, "mallory@example.com")).returncode == 12


def test_model_signing_verifies_what_we_sign_and_we_what_it_signs(
    service: LocalSigstore, trust: Path, tmp_path: Path
) -> None:
    folder, signature = tmp_path / "model", tmp_path / "model.sig"
    (folder / "a").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "a" / "b.bin").write_bytes(b"weights")
    program = PATHS + (
        "import json; from tightship.package.keyless import Keyless, Sigstore; "
        "from tightship.package.signing import sign; asked = json.load(sys.stdin); "
        "keyless = Keyless(asked['token'], Sigstore(trust_config=asked['trust'])); "
        "sys.stdout.write(sign(asked['digests'], 'model', keyless).decode())"
    )
    asked = {"token": service.provider.token(ALICE), "trust": str(trust), "digests": DIGESTS}
    done = run(program, asked=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    signature.write_text(done.stdout)
    whose = ("--identity", ALICE, "--identity_provider", service.provider.url, "--trust_config", trust)
    done = theirs("verify", "sigstore", folder, "--signature", signature, *whose)
    assert done.returncode == 0, done.stdout + done.stderr
    words = ("--identity_token", service.provider.token(ALICE), "--trust_config", trust)
    done = theirs("sign", "sigstore", folder, "--signature", signature, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert judged([json.loads(signature.read_text())], service, trust) == ["held"]
    (folder / "model.onnx").write_bytes(b"other")
    assert theirs("verify", "sigstore", folder, "--signature", signature, *whose).returncode != 0
