"""docs/format.md is enough to write a second reader: here is one, of zipfile, json and what any AES-GCM library has."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.package.test_package import CONTENTS, MANIFEST
from tightship.package.assembly import write_package
from tightship.package.keys import new_key
from tightship.package.signing import verify

# -- the second reader: nothing of tightship is used between here and the tests -----------------------------------


def read_plain(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read("format.json"))
        assert header == {"format": "tightship package", "version": 1, "sealed": False, "id": ""}
        manifest = json.loads(archive.read("manifest.json"))
        files = {name: archive.read(name) for name in manifest["files"]}
    for name, record in manifest["files"].items():
        assert len(files[name]) == record["size"]
        assert hashlib.sha256(files[name]).hexdigest() == record["sha256"]
    return manifest, files


def digests(path: Path) -> dict[str, str]:
    """What a signature covers."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name not in ("signature.json", "recipients/a", "recipients/b")]
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


def slot(archive: zipfile.ZipFile) -> dict[str, Any]:
    sound = []
    for name in ("recipients/a", "recipients/b"):
        data = archive.read(name)
        if hashlib.sha256(data[:-36]).digest() == data[-36:-4]:
            sound.append(json.loads(data[:-36]))
    return max(sound, key=lambda found: int(found["sequence"]))


def read_sealed(path: Path, data_key: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        identity = json.loads(archive.read("format.json"))["id"]

        def opened(entry: str) -> bytes:
            associated = f"tightship package 1 {identity}\n{entry}".encode()
            return open_stream(data_key, associated, archive.read(entry))

        manifest = json.loads(opened("sealed/manifest").rstrip(b"\0"))
        files = {name: opened(record["entry"])[: record["size"]] for name, record in manifest["files"].items()}
    return manifest, files


def open_stream(key: bytes, associated: bytes, sealed: bytes) -> bytes:
    """Tink's AES256_GCM_HKDF_1MB."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    salt, prefix = sealed[1:33], sealed[33:40]
    cipher = AESGCM(HKDF(SHA256(), 32, salt, associated).derive(key))
    ends = [*range(2**20, len(sealed), 2**20), len(sealed)]
    parts = zip([40, *ends[:-1]], ends, strict=True)
    return b"".join(
        cipher.decrypt(prefix + number.to_bytes(4, "big") + bytes([end == len(sealed)]), sealed[begin:end], None)
        for number, (begin, end) in enumerate(parts)
    )


# -- the tests ----------------------------------------------------------------------------------------------------


def test_a_second_reader_reads_a_package(tmp_path: Path) -> None:
    write_package(tmp_path / "a.ship", MANIFEST, CONTENTS)
    manifest, files = read_plain(tmp_path / "a.ship")
    assert files == CONTENTS
    assert (manifest["name"], manifest["metrics"], manifest["artifacts"][0]["target"]["engine"]) == (
        "net",
        {"accuracy": 0.875},
        "onnxruntime",
    )


def test_a_second_reader_reads_a_sealed_package(tmp_path: Path) -> None:
    from tightship.package.recipients import Wrapped, unwrap

    key = new_key("x25519")
    write_package(tmp_path / "a.ship", MANIFEST, CONTENTS, [key.public])
    with zipfile.ZipFile(tmp_path / "a.ship") as archive:
        rows, identity = slot(archive)["recipients"], json.loads(archive.read("format.json"))["id"]
    assert set(rows[0]) == {"suite", "key_id", "encapsulated", "ciphertext", "parameters"}
    assert len(base64.b64decode(rows[0]["encapsulated"])) == 32
    data_key = unwrap([Wrapped(**row) for row in rows], f"tightship package 1 {identity}".encode(), key)
    manifest, files = read_sealed(tmp_path / "a.ship", bytes(data_key))
    assert files == CONTENTS and manifest["licence"] == "Apache-2.0"


@pytest.mark.parametrize("sealed", [False, True])
def test_the_signature_covers_the_entries_that_the_format_says(tmp_path: Path, sealed: bool) -> None:
    key, signer = new_key("x25519"), new_key("ed25519")
    write_package(tmp_path / "a.ship", MANIFEST, CONTENTS, [key.public] if sealed else (), signer)
    with zipfile.ZipFile(tmp_path / "a.ship") as archive:
        bundle = archive.read("signature.json")
    assert verify(bundle, digests(tmp_path / "a.ship"), [signer.public]).key_id == signer.public.id
