"""OpenSSF's own tool checks what we sign, and we check what it signs.

TIGHTSHIP_INTEROP names a Python that has `model-signing`, which cannot share our environment: `make interop` makes one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.package.certificate_chain import Chain
from tests.package.key_pairs import key
from tightship.errors import SignatureError
from tightship.package.keys import write_pair
from tightship.package.signing import sign, verify

PYTHON = os.environ.get("TIGHTSHIP_INTEROP", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="TIGHTSHIP_INTEROP names no Python with model-signing; see `make interop`"),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of files, with names whose order depends on how they are compared."""
    folder = tmp_path / "model"
    for name in ("a/x.bin", "a.b", "a/b/c", "z.onnx"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, "-m", "model_signing", *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


def test_model_signing_verifies_what_we_sign(model: Path, tmp_path: Path) -> None:
    _, public = write_pair(key("ec-p256"), tmp_path / "mine")
    signature = tmp_path / "model.sig"
    signature.write_bytes(sign(digests(model), "model", key("ec-p256")))
    words = ("verify", "key", model, "--signature", signature, "--public_key", public)
    done = tool(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    (model / "a.b").write_text("changed")
    assert tool(*words).returncode != 0


def test_model_signing_refuses_what_another_key_signed(model: Path, tmp_path: Path) -> None:
    _, public = write_pair(key("ec-p256"), tmp_path / "mine")
    signature = tmp_path / "model.sig"
    signature.write_bytes(sign(digests(model), "model", key("ec-p256", other=1)))
    assert tool("verify", "key", model, "--signature", signature, "--public_key", public).returncode != 0


def test_we_verify_what_model_signing_signs(model: Path, tmp_path: Path) -> None:
    private, _ = write_pair(key("ec-p256"), tmp_path / "mine")
    signature = tmp_path / "model.sig"
    done = tool("sign", "key", model, "--signature", signature, "--private_key", private)
    assert done.returncode == 0, done.stdout + done.stderr
    signer = verify(signature.read_bytes(), digests(model), [key("ec-p256").public])
    assert (signer.kind, signer.name) == ("ec-p256", "model")
    with pytest.raises(SignatureError, match=r"changed: a\.b"):
        verify(signature.read_bytes(), {**digests(model), "a.b": "0" * 64}, [key("ec-p256").public])


def test_certificates_go_both_ways(model: Path, tmp_path: Path) -> None:
    chain, (private, _) = Chain(), write_pair(key("ec-p256"), tmp_path / "mine")
    paths = {name: tmp_path / f"{name}.pem" for name in ("root", "between", "signer")}
    for name, path in paths.items():
        path.write_bytes(getattr(chain, name).public_bytes(Encoding.PEM))
    ours, theirs = tmp_path / "ours.sig", tmp_path / "theirs.sig"
    ours.write_bytes(sign(digests(model), "model", key("ec-p256"), chain.chain))
    done = tool("verify", "certificate", model, "--signature", ours, "--certificate_chain", paths["root"])
    assert done.returncode == 0, done.stdout + done.stderr
    certificates = ("--signing_certificate", paths["signer"], "--certificate_chain", paths["between"])
    done = tool("sign", "certificate", model, "--signature", theirs, "--private_key", private, *certificates)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(theirs.read_bytes(), digests(model), [chain.root]).subject == "CN=Test Signer"
