"""Signatures over the files of a model: made, checked, and checked by the tool they are made for."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.package.key_pairs import SIGNERS, key
from tightship.errors import SignatureError, UsageError
from tightship.package.signing import Signer, key_hint, sign, signer_hint, verify

DIGESTS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("model.onnx", "a/b.bin", "a.txt")}


def statement(bundle: bytes) -> dict[str, Any]:
    payload = json.loads(bundle)["dsseEnvelope"]["payload"]
    parsed: dict[str, Any] = json.loads(base64.b64decode(payload))
    return parsed


@pytest.mark.parametrize("kind", SIGNERS)
def test_what_a_key_signs_its_other_half_verifies(kind: str) -> None:
    bundle = sign(DIGESTS, "resnet", key(kind))
    assert verify(bundle, DIGESTS, [key(kind).public]) == Signer(kind, key(kind).public.id, "resnet")


def test_the_signer_is_found_among_all_that_are_trusted() -> None:
    everyone = [key(kind).public for kind in SIGNERS]
    for kind in SIGNERS:
        assert verify(sign(DIGESTS, "m", key(kind)), DIGESTS, everyone).kind == kind


def test_a_bundle_names_its_key_as_model_signing_does(tmp_path: Path) -> None:
    from tightship.package.keys import write_pair

    _, public = write_pair(key("ec-p256"), tmp_path / "mine")
    bundle = sign(DIGESTS, "m", key("ec-p256"))
    assert signer_hint(bundle) == key_hint(key("ec-p256").public) == hashlib.sha256(public.read_bytes()).hexdigest()


def test_the_statement_is_one_of_model_signing() -> None:
    signed = statement(sign(DIGESTS, "resnet", key("ec-p256")))
    names = [entry["name"] for entry in signed["predicate"]["resources"]]
    assert names == ["a/b.bin", "a.txt", "model.onnx"]  # by the parts of their paths
    root = hashlib.sha256(b"".join(bytes.fromhex(DIGESTS[name]) for name in names)).hexdigest()
    assert signed["subject"] == [{"name": "resnet", "digest": {"sha256": root}}]
    assert signed["predicateType"] == "https://model_signing/signature/v1.0"
    assert signed["predicate"]["serialization"] == {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
    }


def test_a_key_that_only_receives_neither_signs_nor_is_trusted() -> None:
    with pytest.raises(UsageError, match="x25519 receives and cannot sign; keys that sign: rsa-3072"):
        sign(DIGESTS, "m", key("x25519"))
    with pytest.raises(UsageError, match="x25519 receives and cannot sign"):
        verify(sign(DIGESTS, "m", key("ed25519")), DIGESTS, [key("x25519").public])


@pytest.mark.parametrize(
    "digests",
    [{}, {"a": "00"}, {"a": "G" * 64}, {"a": "A" * 64}, {"../a": "0" * 64}, {"/a": "0" * 64}, {"": "0" * 64},
     {"a//b": "0" * 64}, {"./a": "0" * 64}, {"a/": "0" * 64}],
)  # fmt: skip
def test_only_plain_paths_with_a_sha256_are_signed(digests: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="expected relative paths with their SHA-256"):
        sign(digests, "m", key("ed25519"))


def test_a_bundle_without_a_hint_is_checked_with_every_trusted_key() -> None:
    document = json.loads(sign(DIGESTS, "m", key("ed25519")))
    document["verificationMaterial"]["publicKey"] = {}
    bundle = json.dumps(document).encode()
    assert verify(bundle, DIGESTS, [key("ec-p256").public, key("ed25519").public]).kind == "ed25519"
    with pytest.raises(SignatureError, match=r"its PEM has SHA-256 \(not told\)"):
        verify(bundle, DIGESTS, [key("ec-p256").public])
