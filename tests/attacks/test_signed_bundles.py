"""Signatures in hostile hands: one typed error that says what was expected and what was found."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.package.key_pairs import SIGNERS, key
from tightship.errors import SignatureError
from tightship.package.signing import _pae, _sign, key_hint, sign, verify
from tightship.package.statement import write_statement

DIGESTS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("model.onnx", "weights.bin")}
OTHER = hashlib.sha256(b"other").hexdigest()
BUNDLE = sign(DIGESTS, "resnet", key("ed25519"))
SECONDS = 5.0
"""What an attack may take of a processor, whatever it is."""


def refused(bundle: bytes, message: str, digests: dict[str, str] = DIGESTS, kind: str = "ed25519") -> None:
    started = time.process_time()
    with pytest.raises(SignatureError, match=message):
        verify(bundle, digests, [key(kind).public])
    assert time.process_time() - started < SECONDS


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    document: dict[str, Any] = json.loads(BUNDLE)
    change(document)
    return json.dumps(document).encode()


def signed(payload: bytes) -> bytes:
    """A bundle whose signature holds, whatever its payload says: what a trusted signer could be made to sign."""

    def put(document: dict[str, Any]) -> None:
        envelope = document["dsseEnvelope"]
        envelope["payload"] = base64.b64encode(payload).decode()
        envelope["signatures"][0]["sig"] = base64.b64encode(_sign(key("ed25519"), _pae(payload))).decode()

    return changed(put)


def stated(change: Callable[[dict[str, Any]], None]) -> bytes:
    statement: dict[str, Any] = json.loads(write_statement(DIGESTS, "resnet"))
    change(statement)
    return signed(json.dumps(statement).encode())


def test_the_bundle_holds_when_nobody_touched_it() -> None:
    assert verify(BUNDLE, DIGESTS, [key("ed25519").public]).name == "resnet"


def test_a_changed_file_is_named_with_both_digests() -> None:
    message = rf"changed: model\.onnx \(signed {DIGESTS['model.onnx'][:12]}, found {OTHER[:12]}\)"
    refused(BUNDLE, message, {**DIGESTS, "model.onnx": OTHER})


def test_an_added_file_is_named() -> None:
    refused(BUNDLE, r"added: evil\.py", {**DIGESTS, "evil.py": OTHER})


def test_a_removed_file_is_named() -> None:
    refused(BUNDLE, r"removed: weights\.bin", {"model.onnx": DIGESTS["model.onnx"]})


def test_a_renamed_file_is_added_and_removed() -> None:
    renamed = {"model.onnx": DIGESTS["model.onnx"], "weights2.bin": DIGESTS["weights.bin"]}
    refused(BUNDLE, r"added: weights2\.bin; removed: weights\.bin", renamed)


def test_a_message_about_thousands_of_files_stays_short() -> None:
    many = {f"{number}.bin": OTHER for number in range(5000)}
    with pytest.raises(SignatureError, match="and 4995 more") as caught:
        verify(BUNDLE, {**DIGESTS, **many}, [key("ed25519").public])
    assert len(str(caught.value)) < 500


def test_the_signature_of_another_model_is_refused() -> None:
    other = sign({"model.onnx": OTHER, "weights.bin": DIGESTS["weights.bin"]}, "other", key("ed25519"))
    refused(other, r"changed: model\.onnx")


def test_no_signature_at_all_is_refused() -> None:
    refused(b"", "there is no signature; expected one by a trusted key")


def test_a_key_that_nobody_trusts_is_refused_with_both_names() -> None:
    stranger = sign(DIGESTS, "resnet", key("ed25519", other=1))
    found, expected = key_hint(key("ed25519", other=1).public)[:16], key_hint(key("ed25519").public)[:16]
    refused(stranger, f"by a key that is not trusted: its PEM has SHA-256 {found}; trusted: {expected}")
    with pytest.raises(SignatureError, match="trusted: none: name a key with --trust"):
        verify(BUNDLE, DIGESTS, [])


@pytest.mark.parametrize("kind", SIGNERS)
def test_a_stranger_who_names_the_trusted_key_is_refused(kind: str) -> None:
    document = json.loads(sign(DIGESTS, "resnet", key("ed25519", other=1)))
    document["verificationMaterial"]["publicKey"]["hint"] = key_hint(key(kind).public)
    refused(json.dumps(document).encode(), "does not hold under the trusted key", kind=kind)


@pytest.mark.parametrize(
    "signature", [b"", b"\x00" * 64, b"\xff" * 64, b"\x00" * 384, bytes.fromhex("3006020100020100")]
)
@pytest.mark.parametrize("kind", SIGNERS)
def test_an_empty_or_degenerate_signature_is_refused(kind: str, signature: bytes) -> None:
    document = json.loads(sign(DIGESTS, "resnet", key(kind)))
    document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    refused(json.dumps(document).encode(), "does not hold", kind=kind)


def test_a_payload_exchanged_under_a_signature_is_refused() -> None:
    other = write_statement({**DIGESTS, "model.onnx": OTHER}, "resnet")

    def exchange(document: dict[str, Any]) -> None:
        document["dsseEnvelope"]["payload"] = base64.b64encode(other).decode()

    refused(changed(exchange), "does not hold", {**DIGESTS, "model.onnx": OTHER})


def test_a_signature_over_another_type_of_payload_is_refused() -> None:
    payload = json.loads(BUNDLE)["dsseEnvelope"]["payload"]
    bare = _sign(key("ed25519"), base64.b64decode(payload))  # not DSSE: the type is not under the signature

    def put(document: dict[str, Any]) -> None:
        document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(bare).decode()

    refused(changed(put), "does not hold")


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "its media type is": lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle.v0.1+json"),
    "it has no 'mediaType'": lambda d: d.pop("mediaType"),
    "it has no 'dsseEnvelope'": lambda d: d.pop("dsseEnvelope"),
    "it has no 'verificationMaterial'": lambda d: d.pop("verificationMaterial"),
    "not an object": lambda d: d.update(verificationMaterial=[]),
    "its payload is 'text/plain'": lambda d: d["dsseEnvelope"].update(payloadType="text/plain"),
    "it holds 0 signatures": lambda d: d["dsseEnvelope"].update(signatures=[]),
    "it holds 2 signatures": lambda d: d["dsseEnvelope"].update(signatures=d["dsseEnvelope"]["signatures"] * 2),
    "not a Sigstore bundle": lambda d: d["dsseEnvelope"].update(payload="%%%"),
    "Sigstore bundle": lambda d: d["dsseEnvelope"].update(payload=7),
    "a Sigstore bundle": lambda d: d.update(dsseEnvelope=None),
    "does not hold|not trusted": lambda d: d["verificationMaterial"].update(publicKey={"hint": ["a"]}),
    "not trusted": lambda d: d["verificationMaterial"].update(publicKey={"hint": "0" * 64}),
}


@pytest.mark.parametrize("message", MALFORMED)
def test_a_malformed_bundle_is_refused_with_what_is_wrong(message: str) -> None:
    refused(changed(MALFORMED[message]), message)


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        (b"\x00\xff", "not a Sigstore bundle"),
        (b"[]", "not a Sigstore bundle"),
        (b"null", "not a Sigstore bundle"),
        (b"{", "not a Sigstore bundle"),
        (b"[" * 10_000 + b"]" * 10_000, "nested deeper than 64"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested deeper than 64"),
        (b"[" * 100 + b"]" * 100, "nested deeper than 64"),
        (b'{"mediaType": NaN}', "NaN is not JSON"),
        (b'{"mediaType": -Infinity}', "Infinity is not JSON"),
        (b'{"mediaType": 1e999}', "beyond a float64"),
        (b"9" * 100_000, "not a Sigstore bundle"),
        (b'{"mediaType": 1, "mediaType": 2}', "'mediaType' stands twice"),
        (BUNDLE[:-1] + b',"dsseEnvelope":{}}', "'dsseEnvelope' stands twice"),
        (b" " * (17 << 20), "expected at most 16777216"),
        (b"[" + b"[]," * (5 << 20) + b"[]]", "more than 131072 objects and lists"),
        (b"[" + b"0," * (7 << 20) + b"0]", "or 1048576 values"),
    ],
)
def test_hostile_json_is_refused(bundle: bytes, message: str) -> None:
    refused(bundle, message)


def test_as_many_values_as_are_allowed_take_bounded_memory_and_time() -> None:
    bundle = b"[" + b'{"a":1},' * ((1 << 17) - 2) + b"0]"
    refused(bundle, "not a Sigstore bundle")
    tracemalloc.start()
    try:
        with pytest.raises(SignatureError):
            verify(bundle, DIGESTS, [])
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()


def test_a_truncated_bundle_is_refused_wherever_it_ends() -> None:
    for end in range(0, len(BUNDLE) - 1, 13):
        refused(BUNDLE[:end], "there is no signature" if end == 0 else "not a Sigstore bundle")


def test_a_flipped_bit_in_payload_or_signature_is_refused() -> None:
    rng = np.random.default_rng(0)
    document = json.loads(BUNDLE)
    places = [(document["dsseEnvelope"], "payload"), (document["dsseEnvelope"]["signatures"][0], "sig")]
    for holder, name in places:
        before = base64.b64decode(holder[name])
        for position in rng.integers(0, len(before), 60):
            data = bytearray(before)
            data[position] ^= 1 << int(rng.integers(8))
            holder[name] = base64.b64encode(data).decode()
            refused(json.dumps(document).encode(), "does not hold")
        holder[name] = base64.b64encode(before).decode()


RESOURCE = {"name": "model.onnx", "algorithm": "sha256", "digest": OTHER}
STATED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "_type is": lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    "predicateType is": lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
    "values to unpack": lambda s: s.update(subject=s["subject"] * 2),
    "method is 'shards'": lambda s: s["predicate"]["serialization"].update(method="shards"),
    "hash_type is 'blake3'": lambda s: s["predicate"]["serialization"].update(hash_type="blake3"),
    "algorithm is 'md5'": lambda s: s["predicate"]["resources"][0].update(algorithm="md5"),
    "is not a SHA-256 in hex": lambda s: s["predicate"]["resources"][0].update(digest="00"),
    "'../evil' is not a relative path": lambda s: s["predicate"]["resources"][0].update(name="../evil"),
    "'/etc/passwd' is not a relative path": lambda s: s["predicate"]["resources"][0].update(name="/etc/passwd"),
    "root digest is": lambda s: s["predicate"]["resources"][0].update(digest=OTHER),
    "number of different files": lambda s: s["predicate"]["resources"].append(RESOURCE),
    "no 'predicate'": lambda s: s.pop("predicate"),
    "OpenSSF": lambda s: s.update(predicate=[]),
    "Model Signing": lambda s: s["predicate"].update(resources=None),
    "name is not a text": lambda s: s["subject"][0].update(name=7),
    "v1.0": lambda s: s["predicate"].update(resources=[7]),
}


@pytest.mark.parametrize("message", STATED)
def test_a_statement_that_is_signed_and_still_wrong_is_refused(message: str) -> None:
    refused(stated(STATED[message]), message)


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"\xff", b'{"_type": NaN}', b"[" * 10_000, b'{"_type": 1, "_type": 1}']
)
def test_a_payload_that_is_signed_and_no_statement_is_refused(payload: bytes) -> None:
    refused(signed(payload), "is not one of OpenSSF Model Signing")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PLACES = [
    "mediaType",
    "verificationMaterial",
    "dsseEnvelope",
    "payload",
    "payloadType",
    "signatures",
    "sig",
    "publicKey",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES), JSON_VALUES)
def test_any_value_anywhere_in_a_bundle_is_refused_or_harmless(place: str, value: Any) -> None:
    def put(node: Any) -> None:
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            put(child)
        if isinstance(node, dict) and place in node:
            node[place] = value

    with contextlib.suppress(SignatureError):
        assert verify(changed(put), DIGESTS, [key("ed25519").public]).name == "resnet"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["_type", "subject", "predicate", "resources", "serialization", "name", "digest"]), JSON_VALUES)
def test_any_value_anywhere_in_a_signed_statement_is_refused(place: str, value: Any) -> None:
    def put(node: Any) -> None:
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            put(child)
        if isinstance(node, dict) and place in node:
            node[place] = value

    with pytest.raises(SignatureError):
        verify(stated(put), DIGESTS, [key("ed25519").public])
