"""Signers told by certificates: whoever trusts the root needs no key of the signer."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests import nets
from tests.package.certificate_chain import Chain
from tests.package.key_pairs import key
from tightship import api
from tightship.api import Keys
from tightship.cli import main
from tightship.errors import SignatureError, UsageError
from tightship.package.certificates import load_certificates
from tightship.package.keys import write_pair
from tightship.package.signing import sign, verify

DIGESTS = {"model.onnx": "0" * 64}


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain()


def test_a_signature_under_a_trusted_root_holds_and_names_its_signer(chain: Chain) -> None:
    bundle = sign(DIGESTS, "m", key("ec-p256"), chain.chain)
    signer = verify(bundle, DIGESTS, [chain.root])
    assert (signer.subject, signer.key_id) == ("CN=Test Signer", key("ec-p256").public.id)


def test_a_trusted_key_is_no_trusted_root(chain: Chain) -> None:
    bundle = sign(DIGESTS, "m", key("ec-p256"), chain.chain)
    with pytest.raises(SignatureError, match="no root is trusted; name one with --trust"):
        verify(bundle, DIGESTS, [key("ec-p256").public])


def test_a_stranger_s_root_is_refused_by_name(chain: Chain) -> None:
    bundle = sign(DIGESTS, "m", key("ec-p256"), chain.chain)
    with pytest.raises(SignatureError, match=r"CN=Test Signer does not lead to a trusted root \(CN=Test Root\)"):
        verify(bundle, DIGESTS, [Chain().root])


def test_a_chain_with_a_link_missing_is_refused(chain: Chain) -> None:
    bundle = sign(DIGESTS, "m", key("ec-p256"), chain.chain[:1])
    with pytest.raises(SignatureError, match="does not lead to a trusted root"):
        verify(bundle, DIGESTS, [chain.root])


def test_a_certificate_that_is_not_for_signing_is_refused() -> None:
    chain = Chain(signs=False)
    bundle = sign(DIGESTS, "m", key("ec-p256"), chain.chain)
    with pytest.raises(SignatureError, match="is not for signing; expected digitalSignature or codeSigning"):
        verify(bundle, DIGESTS, [chain.root])


def test_a_certificate_from_before_its_root_is_refused() -> None:
    chain = Chain(days=-40)
    bundle = sign(DIGESTS, "m", key("ec-p256"), chain.chain)
    with pytest.raises(SignatureError, match="does not lead to a trusted root"):
        verify(bundle, DIGESTS, [chain.root])


def test_a_certificate_for_another_key_is_refused_when_signing(chain: Chain) -> None:
    with pytest.raises(UsageError, match="is not for the key that signs"):
        sign(DIGESTS, "m", key("ec-p256", other=1), chain.chain)


def test_a_signature_by_another_key_than_the_certificate_s_is_refused(chain: Chain) -> None:
    document = json.loads(sign(DIGESTS, "m", key("ec-p256"), chain.chain))
    other = json.loads(sign(DIGESTS, "m", key("ec-p256", other=1)))
    document["dsseEnvelope"] = other["dsseEnvelope"]
    with pytest.raises(SignatureError, match="does not hold"):
        verify(json.dumps(document).encode(), DIGESTS, [chain.root])


@pytest.mark.parametrize(
    "certificates",
    [
        None,
        [],
        {},
        [{}],
        [{"rawBytes": "%"}],
        [{"rawBytes": ""}],
        [{"rawBytes": "AAAA"}],
        [7],
        [{"rawBytes": "MAA="}] * 9,
    ],
)
def test_a_malformed_chain_is_refused(certificates: Any, chain: Chain) -> None:
    document = json.loads(sign(DIGESTS, "m", key("ec-p256"), chain.chain))
    document["verificationMaterial"]["x509CertificateChain"]["certificates"] = certificates
    with pytest.raises(SignatureError, match=r"cannot be read|holds \d certificates, expected 1 to 8"):
        verify(json.dumps(document).encode(), DIGESTS, [chain.root])


@pytest.mark.parametrize("which", [0, 1])
def test_flipped_bits_in_a_certificate_are_refused(which: int, chain: Chain) -> None:
    document = json.loads(sign(DIGESTS, "m", key("ec-p256"), chain.chain))
    entries = document["verificationMaterial"]["x509CertificateChain"]["certificates"]
    whole = base64.b64decode(entries[which]["rawBytes"])
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 1 << (position % 8)
        entries[which]["rawBytes"] = base64.b64encode(data).decode()
        with pytest.raises(SignatureError):
            verify(json.dumps(document).encode(), DIGESTS, [chain.root])


def test_a_signature_that_declares_unused_bits_is_refused(chain: Chain) -> None:
    while chain.signer.signature[-1] & 1:  # bits declared as unused must be zero, or no parser reads them
        chain = Chain()
    document = json.loads(sign(DIGESTS, "m", key("ec-p256"), chain.chain))
    entry = document["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
    data = bytearray(base64.b64decode(entry["rawBytes"]))
    data[-len(chain.signer.signature) - 1] = 1
    entry["rawBytes"] = base64.b64encode(data).decode()
    with pytest.raises(SignatureError, match="CN=Test Signer is not encoded in DER"):
        verify(json.dumps(document).encode(), DIGESTS, [chain.root])


def test_certificates_are_read_from_pem(chain: Chain, tmp_path: Path) -> None:
    file = tmp_path / "chain.pem"
    file.write_bytes(b"".join(entry.public_bytes(Encoding.PEM) for entry in chain.chain))
    assert load_certificates(file) == chain.chain
    file.write_text("nothing")
    with pytest.raises(UsageError, match="holds no PEM certificates"):
        load_certificates(file)


def test_packing_signs_with_certificates_in_one_step(chain: Chain, tmp_path: Path) -> None:
    file, (private, _) = nets.save(nets.mlp(8), tmp_path, "m.onnx"), write_pair(key("ec-p256"), tmp_path / "mine")
    root, links = tmp_path / "root.pem", tmp_path / "chain.pem"
    root.write_bytes(chain.root.public_bytes(Encoding.PEM))
    links.write_bytes(b"".join(entry.public_bytes(Encoding.PEM) for entry in chain.chain))
    api.pack([file], tmp_path / "a.ship", sign_with=str(private), certificates=links)
    words = ["pack", str(file), "-o", str(tmp_path / "b.ship"), "--sign", str(private), "--certificate", str(links)]
    assert main(words) == 0
    for name in ("a.ship", "b.ship"):
        signer = api.verify(tmp_path / name, Keys(trust=(str(root),))).signer
        assert signer is not None
        assert signer.subject == "CN=Test Signer"


def test_packing_with_certificates_of_another_or_no_key_writes_nothing(chain: Chain, tmp_path: Path) -> None:
    file, links = nets.save(nets.mlp(8), tmp_path, "m.onnx"), tmp_path / "chain.pem"
    private, _ = write_pair(key("ec-p256", other=1), tmp_path / "other")
    links.write_bytes(b"".join(entry.public_bytes(Encoding.PEM) for entry in chain.chain))
    with pytest.raises(UsageError, match="is not for the key that signs"):
        api.pack([file], tmp_path / "a.ship", sign_with=str(private), certificates=links)
    with pytest.raises(UsageError, match="certificates are of a key"):
        api.pack([file], tmp_path / "a.ship", certificates=links)
    assert not (tmp_path / "a.ship").exists()
