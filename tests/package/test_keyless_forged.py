"""Keyless bundles in hostile hands: made without Sigstore's library, altered, and judged by it through ours."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.package.keyless_tools import ALICE, DIGESTS, MARKS, judged
from tests.package.local_sigstore.service import LocalSigstore

pytestmark = MARKS


@pytest.fixture(scope="module")
def service() -> Iterator[LocalSigstore]:
    with LocalSigstore() as running:
        yield running


@pytest.fixture
def trust(service: LocalSigstore, tmp_path: Path) -> Path:
    return service.trust_config(tmp_path / "trust.json")


def test_a_bundle_that_was_made_without_the_library_holds(service: LocalSigstore, trust: Path) -> None:
    """So that the ones below are refused for what is wrong with them alone."""
    assert judged([service.bundle(ALICE, DIGESTS)], service, trust) == ["held"]


def log_entry(document: dict[str, Any]) -> dict[str, Any]:
    (entry,) = document["verificationMaterial"]["tlogEntries"]
    found: dict[str, Any] = entry
    return found


def later(seconds: str) -> str:
    return str(int(seconds) + 60)


FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no entry in the log": lambda found: found["verificationMaterial"].update(tlogEntries=[]),
    "two entries in the log": lambda found: found["verificationMaterial"]["tlogEntries"].append(log_entry(found)),
    "entries are no list": lambda found: found["verificationMaterial"].update(tlogEntries={"a": 1}),
    "no proof": lambda found: log_entry(found).pop("inclusionProof"),
    "no checkpoint": lambda found: log_entry(found)["inclusionProof"].pop("checkpoint"),
    "no promise": lambda found: log_entry(found).pop("inclusionPromise"),
    "a time of letters": lambda found: log_entry(found).update(
        integratedTime=str(int(log_entry(found)["integratedTime"]) - 9)
    ),
    "no time": lambda found: log_entry(found).pop("integratedTime"),
    "another index": lambda found: log_entry(found)["inclusionProof"].update(logIndex="0"),
    "a negative index": lambda found: log_entry(found)["inclusionProof"].update(logIndex="-1"),
    "an index of 2^62": lambda found: log_entry(found)["inclusionProof"].update(logIndex=str(2**62)),
    "a tree of nothing": lambda found: log_entry(found)["inclusionProof"].update(treeSize="0"),
    "proof cut": lambda found: log_entry(found)["inclusionProof"]["hashes"].pop(),
    "another root": lambda found: log_entry(found)["inclusionProof"].update(rootHash="A" * 43 + "="),
    "a checkpoint of words": lambda found: log_entry(found)["inclusionProof"].update(checkpoint={"envelope": "words"}),
    "another kind of entry": lambda found: log_entry(found)["kindVersion"].update(kind="intoto"),
    "another version": lambda found: log_entry(found)["kindVersion"].update(version="9"),
    "a body of something": lambda found: log_entry(found).update(canonicalizedBody="e30="),
    "no body": lambda found: log_entry(found).pop("canonicalizedBody"),
    "another signature": lambda found: found["dsseEnvelope"]["signatures"][0].update(sig="MEUCIA=="),
    "timestamps of nobody": lambda found: found["verificationMaterial"].update(
        timestampVerificationData={"rfc3161Timestamps": [{"signedTimestamp": "MAA="}]}
    ),
}


def test_each_part_of_a_bundle_is_needed_as_it_is(service: LocalSigstore, trust: Path) -> None:
    bundles = []
    for change in FORGERIES.values():
        bundles.append(service.bundle(ALICE, DIGESTS))
        change(bundles[-1])
    for what, end in zip(FORGERIES, judged(bundles, service, trust), strict=True):
        assert end.startswith("refused: "), f"{what}: {end}"


def test_parts_of_two_bundles_do_not_make_one(service: LocalSigstore, trust: Path) -> None:
    bundles = []
    for part in ("dsseEnvelope", "certificate", "tlogEntries"):
        one, other = service.bundle(ALICE, DIGESTS), service.bundle(ALICE, DIGESTS)
        place = lambda found, part=part: found if part == "dsseEnvelope" else found["verificationMaterial"]  # noqa: E731
        place(one)[part] = place(other)[part]
        bundles.append(one)
    assert all(end.startswith("refused: ") for end in judged(bundles, service, trust))


def test_a_signature_from_after_its_certificate_s_ten_minutes_is_refused(service: LocalSigstore, trust: Path) -> None:
    (end,) = judged([service.bundle(ALICE, DIGESTS, late=timedelta(minutes=11))], service, trust)
    assert end.startswith("refused: the keyless signature does not hold")


def test_names_providers_roots_and_files_must_be_those_expected(
    service: LocalSigstore, trust: Path, tmp_path: Path
) -> None:
    document, other = service.bundle(ALICE, DIGESTS), LocalSigstore()
    foreign = other.trust_config(tmp_path / "other.json")
    missing = tmp_path / "missing.json"
    (name,) = judged([document], service, trust, name="mallory@example.com")
    (provider,) = judged([document], service, trust, provider="https://accounts.example.com")
    (roots,) = judged([document], service, foreign)
    (files,) = judged([service.bundle(ALICE, {**DIGESTS, "model.onnx": "0" * 64})], service, trust)
    (absent,) = judged([document], service, missing)
    assert name.startswith("refused: the keyless signature does not hold for mallory@example.com")
    assert provider.startswith("refused: the keyless signature does not hold")
    assert roots.startswith("refused: the keyless signature does not hold")
    assert files.startswith("refused: the files are not those that were signed; changed: model.onnx")
    assert absent.startswith("UsageError: ")


@pytest.mark.parametrize("text", ["", "words", "{}", "[]", '{"mediaType": 7}', '{"mediaType": "text/plain"}', "\xff"])
def test_a_file_that_is_no_trust_configuration_is_told_as_such(
    text: str, service: LocalSigstore, tmp_path: Path
) -> None:
    (tmp_path / "trust.json").write_text(text, encoding="latin-1")
    (end,) = judged([service.bundle(ALICE, DIGESTS)], service, tmp_path / "trust.json")
    assert end.startswith(f"refused: {tmp_path}/trust.json is no trust configuration of Sigstore")


def test_a_trusted_root_without_keys_trusts_nothing(service: LocalSigstore, trust: Path, tmp_path: Path) -> None:
    for part in ("tlogs", "certificateAuthorities", "ctlogs"):
        config = json.loads(trust.read_text())
        config["trustedRoot"][part] = []
        (tmp_path / "empty.json").write_text(json.dumps(config))
        (end,) = judged([service.bundle(ALICE, DIGESTS)], service, tmp_path / "empty.json")
        assert end.startswith("refused: the keyless signature does not hold")


def test_damaged_bundles_hold_or_are_refused_with_one_type(service: LocalSigstore, trust: Path) -> None:
    """Some hold, for the same files by the same signer: the library skips what is no base64 in the entry of the log."""
    whole, rng = json.dumps(service.bundle(ALICE, DIGESTS)), random.Random(0)
    bundles = []
    for _ in range(400):
        place, letter = rng.randrange(len(whole)), rng.choice('A/9"{}[]:,\\ \x00é')
        bundles.append(whole[:place] + letter + whole[place + rng.randrange(2) :])
    ends = judged(bundles, service, trust)
    assert not [end for end in ends if end != "held" and not end.startswith("refused: ")]
    assert sum(end == "held" for end in ends) < len(ends) // 4
