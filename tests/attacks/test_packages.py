"""Hostile and broken packages: each ends in one typed error, soon, in bounded memory, with nothing written."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from tightship import api
from tightship.core.target import Target
from tightship.errors import InvalidModel, PackageError, SealError, SignatureError, TightshipError
from tightship.package import FileRecord, Manifest, PackedArtifact, open_package
from tightship.package.archive import Archive, ArchiveWriter
from tightship.package.assembly import write_package
from tightship.package.keys import new_key, write_pair
from tightship.package.kinds import PrivateKey
from tightship.package.manifest import Header, write_json
from tightship.package.opening import Keys

PEAK_BYTES = 32 * 2**20
SECONDS = 5.0
MODEL = "artifacts/onnx/model.onnx"
MANIFEST = Manifest("net", "1", (PackedArtifact("onnx", "onnx", MODEL, Target(), 0),), {})


@pytest.fixture(scope="module")
def model() -> bytes:
    return nets.mlp(64).SerializeToString()


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return new_key("x25519")


@pytest.fixture
def path(tmp_path: Path, model: bytes) -> Path:
    write_package(tmp_path / "net.ship", MANIFEST, {MODEL: model, "evidence/plan.json": b"{}"})
    return tmp_path / "net.ship"


@pytest.fixture
def sealed(tmp_path: Path, model: bytes, key: PrivateKey) -> Path:
    write_package(tmp_path / "net.ship", MANIFEST, {MODEL: model, "evidence/plan.json": b"{}"}, [key.public])
    return tmp_path / "net.ship"


def refuse(path: Path, match: str, error: type[TightshipError] = PackageError) -> None:
    """Assert that every way of opening ends with this error, soon, in little memory, and that no file appears."""
    before = {child: child.lstat().st_mtime_ns for child in path.parent.rglob("*")}
    ways: tuple[Callable[[], object], ...] = (
        lambda: api.verify(path),
        lambda: api.unpack(path, path.parent / "out"),
        lambda: api.inspect(path),
        lambda: api.run(path, "absent.npz", path.parent / "out.npz"),
    )
    for way in ways:
        tracemalloc.start()
        started = time.perf_counter()
        try:
            with pytest.raises(error, match=match) as caught:
                way()
            assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
        finally:
            tracemalloc.stop()
        assert time.perf_counter() - started < SECONDS
        assert path.name in str(caught.value)
    assert {child: child.lstat().st_mtime_ns for child in path.parent.rglob("*")} == before


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("format.json", write_json(Header()))
        for name, content in entries:
            archive.writestr(name, content)


def repacked(path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    """Write the package anew, in canonical form, with its entries changed."""
    with Archive(path) as archive:
        contents = {name: archive.read(name, 2**30) for name in archive.entries}
    with path.open("w+b") as file:
        writer = ArchiveWriter(file)
        for name, content in change(contents).items():
            writer.add(name, content)
        writer.finish()


def manifest_changed(path: Path, **fields: object) -> None:
    def change(contents: dict[str, bytes]) -> dict[str, bytes]:
        manifest = {**json.loads(contents["manifest.json"]), **fields}
        return {**contents, "manifest.json": json.dumps(manifest).encode()}

    repacked(path, change)


# -- what is no package -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\5\6", b"PK\5\6" + bytes(18), np.random.default_rng(0).bytes(4096), bytes(4096), b"PK\3\4" + bytes(100)],
    ids=["empty", "four-bytes", "empty-zip", "random", "zeros", "local-header"],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.ship").write_bytes(content)
    refuse(tmp_path / "net.ship", "package")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "net.ship", "No such file")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.ship").mkdir()
    refuse(tmp_path / "net.ship", "no plain file")


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.ship")
    refuse(tmp_path / "net.ship", "no plain file")


def test_another_zip_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "net.ship")
    refuse(tmp_path / "net.ship", "its directory begins at|begins at byte")


# -- zip attacks --------------------------------------------------------------------------------------------------


def test_a_zip_bomb_is_refused_by_its_compression(tmp_path: Path) -> None:
    zipped(tmp_path / "net.ship", ("manifest.json", bytes(64 << 20)), method=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "net.ship").stat().st_size < 2**20
    refuse(tmp_path / "net.ship", "begins at byte|compressed")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:evil", "./evil", "a//evil"])
def test_a_name_out_of_the_folder_is_refused(path: Path, name: str) -> None:
    blob = path.read_bytes()
    placeholder = "x" * len(name)
    zipped(path, (placeholder, b"evil"))
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), name.encode()))
    assert path.read_bytes() != blob
    refuse(path, "plain relative path|begins at byte")


def test_an_entry_that_is_a_link_is_refused(path: Path) -> None:
    link = zipfile.ZipInfo("evidence/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    zipped(path, (link, b"/etc/passwd"))
    refuse(path, "no plain file|no package")


def test_two_entries_of_one_name_are_refused(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(path, ("manifest.json", b"{}"), ("manifest.json", b"[]"))
    refuse(path, "two entries have the name")


def test_overlapping_entries_are_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\1\2", content.index(b"PK\1\2") + 4)
    struct.pack_into("<I", content, second + 42, 0)  # the second entry begins where the first does
    path.write_bytes(content)
    refuse(path, "begins at byte 0, expected")


@pytest.mark.parametrize(
    ("offset", "form", "value", "match"),
    [
        (8, "<H", 1, "encrypted by zip"),
        (8, "<H", 8, "form that packages have"),
        (10, "<H", 8, "compressed"),
        (12, "<H", 77, "form that packages have"),
        (16, "<I", 7, "not what the directory says"),
        (20, "<I", 1, "form that packages have"),
        (24, "<I", 2**31, "begins at byte|end at byte"),
        (28, "<H", 60000, "."),
        (30, "<H", 4, "."),
        (32, "<H", 4, "."),
        (38, "<I", (stat.S_IFLNK | 0o777) << 16, "no plain file"),
        (42, "<I", 2**32 - 2, "begins at byte"),
        (42, "<I", 2**32 - 1, "begins at byte"),
    ],
    ids=[
        "encrypted", "data-descriptor", "deflated", "time", "crc", "compressed-size", "size", "name-length",
        "extra-length", "comment-length", "link", "offset", "wide-offset",
    ],
)  # fmt: skip
def test_a_directory_that_says_something_else_is_refused(
    path: Path, offset: int, form: str, value: int, match: str
) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, content.index(b"PK\1\2") + offset, value)
    path.write_bytes(content)
    refuse(path, match)


@pytest.mark.parametrize("offset", range(4, 30))
def test_a_local_header_that_disagrees_with_the_directory_is_refused(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    refuse(path, "not what the directory says")


@pytest.mark.parametrize("count", [0, 1, 9_999, 65_534, 65_535])
def test_a_wrong_count_of_entries_is_refused(path: Path, count: int) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<2H", content, len(content) - 14, count, count)
    path.write_bytes(content)
    refuse(path, "package|directory|entries|end record")


def test_a_count_of_a_billion_entries_is_refused_at_once(path: Path) -> None:
    content = path.read_bytes()
    wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 10**9, 10**9, 46 * 10**9, 0)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(content + wide + struct.pack("<4sIQI", b"PK\6\7", 0, len(content), 1) + end)
    refuse(path, "1000000000 entries")


def test_very_many_entries_are_refused_soon(path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(20_000):
            archive.writestr(f"{index}", b"")
    path.write_bytes(file.getvalue())
    refuse(path, "10000 are allowed")


@pytest.mark.parametrize("where", ["before", "behind", "comment"])
def test_extra_data_is_refused(path: Path, where: str) -> None:
    content = path.read_bytes()
    if where == "comment":
        content = content[:-2] + struct.pack("<H", 4) + b"more"
    path.write_bytes(b"more" + content if where == "before" else content + b"more" if where == "behind" else content)
    refuse(path, ".")


def test_data_between_entries_is_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\1\2")
    content[start:start] = b"hidden"
    struct.pack_into("<I", content, len(content) - 6, start + 6)
    path.write_bytes(content)
    refuse(path, "directory begins at")


def test_a_package_cut_at_any_of_many_places_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for end in {*range(0, len(content), 97), *range(len(content) - 400, len(content))}:
        path.write_bytes(content[:end])
        with pytest.raises(PackageError):
            open_package(path)


def test_a_package_with_any_of_many_bits_flipped_is_refused_or_says_the_same(path: Path, model: bytes) -> None:
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    n_refused, n_tried = 0, 400
    places = {*map(int, rng.integers(0, len(content), n_tried // 2)), *range(len(content) - n_tried // 2, len(content))}
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            with open_package(path) as package:
                for name in package.names():
                    package.check(name)
        except PackageError:
            n_refused += 1
    assert n_refused == len(places)


# -- a manifest that lies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"files": {}}, "no file"),
        ({"artifacts": []}, "names no artifact"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"name": 3}, "Expected `str`"),
        ({"files": {MODEL: {"sha256": "0" * 64, "size": -1}}}, "no size and SHA-256"),
        ({"files": {MODEL: {"sha256": "xyz", "size": 1}}}, "no size and SHA-256"),
        ({"files": {"../up": {"sha256": "0" * 64, "size": 1}}}, "plain relative path"),
        ({"files": {"format.json": {"sha256": "0" * 64, "size": 1}}}, "keeps for itself"),
        ({"files": {MODEL: {"sha256": "0" * 64, "size": 1, "entry": "sealed/1"}}}, "is in entry 'sealed/1'"),
        ({"files": {MODEL: {"sha256": "0" * 64, "size": 2**62}}}, "the manifest says 4611686018427387904"),
        ({"files": {MODEL: {"sha256": "0" * 64, "size": 10**400}}}, "no size and SHA-256"),
    ],
    ids=[
        "no-files", "no-artifacts", "unknown-field", "wrong-type", "negative-size", "no-digest", "up", "reserved",
        "entry", "huge-size", "integer-of-400-digits",
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_sound_is_refused(path: Path, fields: dict[str, object], match: str) -> None:
    manifest_changed(path, **fields)
    refuse(path, match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b'{"name": NaN}', "NaN is not JSON"),
        (b'{"name": "a", "name": "b"}', "stands twice"),
        (b"[" * 10_000 + b"]" * 10_000, "nested deeper"),
        (b"\xff\xfe", "not what the format says"),
        (b"[]", "not what the format says"),
        (b"", "not what the format says"),
    ],
    ids=["nan", "duplicate-keys", "depth-10000", "not-utf8", "a-list", "empty"],
)
def test_json_that_is_not_strict_is_refused(path: Path, text: bytes, match: str) -> None:
    repacked(path, lambda contents: {**contents, "manifest.json": text})
    refuse(path, match)


def test_a_newer_format_is_refused_with_what_to_do(path: Path) -> None:
    repacked(path, lambda contents: {**contents, "format.json": write_json(replace(Header(), version=2))})
    refuse(path, "format version 2; this tightship reads 1: upgrade it")


def test_a_file_the_manifest_does_not_name_is_refused(path: Path) -> None:
    repacked(path, lambda contents: {**contents, "evidence/more.json": b"{}"})
    refuse(path, "of which the manifest says nothing")


def test_a_file_that_was_removed_is_refused(path: Path) -> None:
    repacked(path, lambda contents: {name: data for name, data in contents.items() if "plan" not in name})
    refuse(path, "evidence/plan.json is missing")


def test_a_changed_model_is_refused_before_a_parser_sees_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(contents: dict[str, bytes]) -> dict[str, bytes]:
        return {**contents, MODEL: contents[MODEL][:-1] + b"\0"}

    monkeypatch.setattr("tightship.package.opening.read_memory", lambda *_: pytest.fail("a parser saw it"))
    repacked(path, changed)
    for way in (lambda: api.verify(path), lambda: api.run(path, "absent.npz", path.parent / "out.npz")):
        with pytest.raises(PackageError, match="was changed"):
            way()


def test_a_sound_package_of_a_model_that_is_none_is_an_invalid_model(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"\x08\x08", b"\x3a\xff\xff\xff\xff\x7f", bytes(4096), b"\xff" * 64)):
        path = tmp_path / f"{number}.ship"
        write_package(path, MANIFEST, {MODEL: content})
        with pytest.raises(InvalidModel):
            api.check(path, path)


# -- seals --------------------------------------------------------------------------------------------------------


def opened(path: Path, key: PrivateKey) -> None:
    with open_package(path, key) as package:
        for name in package.names():
            package.check(name)


def test_another_key_is_the_uniform_error(sealed: Path) -> None:
    with pytest.raises(SealError, match="which one is not told"):
        opened(sealed, new_key("x25519"))


def test_swapped_dropped_and_renamed_entries_do_not_open(sealed: Path, key: PrivateKey) -> None:
    content = sealed.read_bytes()

    def swapped(contents: dict[str, bytes]) -> dict[str, bytes]:
        return {**contents, "sealed/1": contents["sealed/2"], "sealed/2": contents["sealed/1"]}

    def dropped(contents: dict[str, bytes]) -> dict[str, bytes]:
        return {name: data for name, data in contents.items() if name != "sealed/2"}

    def as_manifest(contents: dict[str, bytes]) -> dict[str, bytes]:
        return {**contents, "sealed/manifest": contents["sealed/1"]}

    for change in (swapped, dropped, as_manifest):
        sealed.write_bytes(content)
        repacked(sealed, change)
        with pytest.raises((PackageError, SealError)):
            opened(sealed, key)


def test_entries_of_another_package_for_the_same_receiver_do_not_open(
    sealed: Path, key: PrivateKey, tmp_path: Path, model: bytes
) -> None:
    other = tmp_path / "other.ship"
    write_package(other, MANIFEST, {MODEL: model, "evidence/plan.json": b"{}"}, [key.public])
    with Archive(other) as archive:
        theirs = {name: archive.read(name, 2**30) for name in archive.entries}
    content = sealed.read_bytes()
    for names in (["sealed/1"], ["recipients/a", "recipients/b"], ["sealed/manifest"], ["format.json"]):
        sealed.write_bytes(content)
        repacked(sealed, lambda ours, names=names: {**ours, **{name: theirs[name] for name in names}})  # type: ignore[misc]
        with pytest.raises(SealError):
            opened(sealed, key)


def test_bits_flipped_in_the_sealed_payload_are_the_uniform_error(sealed: Path, key: PrivateKey) -> None:
    content = sealed.read_bytes()
    rng = np.random.default_rng(0)
    with Archive(sealed) as archive:
        spans = [(entry.offset, entry.end) for name, entry in archive.entries.items() if name.startswith("sealed/")]
    for begin, end in spans:
        for place in (begin, begin + 1, end - 1, *map(int, rng.integers(begin, end, 5))):
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            sealed.write_bytes(changed)
            with pytest.raises(SealError):
                opened(sealed, key)


def test_a_damaged_slot_leaves_the_other_and_two_are_the_uniform_error(sealed: Path, key: PrivateKey) -> None:
    with Archive(sealed) as archive:
        first, second = archive["recipients/a"], archive["recipients/b"]
    with sealed.open("r+b") as file:
        file.seek(first.offset + 100)
        file.write(b"\0" * 50)
    opened(sealed, key)
    with sealed.open("r+b") as file:
        file.seek(second.offset + 100)
        file.write(b"\0" * 50)
    with pytest.raises(SealError):
        opened(sealed, key)


def test_a_sealed_package_that_says_it_is_not_sealed_is_refused(sealed: Path) -> None:
    repacked(sealed, lambda contents: {**contents, "format.json": write_json(Header())})
    refuse(sealed, "manifest.json is missing")


def test_nothing_of_a_sealed_model_is_written_to_a_disk(sealed: Path, key: PrivateKey, model: bytes) -> None:
    pair, _ = write_pair(key, sealed.parent / "k")
    np.savez(sealed.parent / "d.npz", x=np.zeros((2, 64), np.float32))
    weight = model[len(model) // 2 :][:64]
    api.run(sealed, str(sealed.parent / "d.npz"), sealed.parent / "o.npz", keys=Keys(str(pair)))
    written = [child for child in sealed.parent.rglob("*") if child.is_file()]
    assert {child.name for child in written} == {"net.ship", "k.key", "k.pub", "d.npz", "o.npz"}
    assert not any(weight in child.read_bytes() for child in written)


# -- signatures ---------------------------------------------------------------------------------------------------


@pytest.fixture
def signer() -> PrivateKey:
    return new_key("ec-p256")


def signed_with(path: Path, key: PrivateKey) -> Keys:
    private, public = write_pair(key, path.parent / "signer")
    api.sign(path, str(private))
    return Keys(trust=(str(public),))


def test_a_missing_signature_is_told(path: Path, signer: PrivateKey) -> None:
    _, public = write_pair(signer, path.parent / "signer")
    with pytest.raises(SignatureError, match="is not signed"):
        api.verify(path, Keys(trust=(str(public),)))


def test_a_signature_by_another_key_is_not_trusted(path: Path, signer: PrivateKey) -> None:
    signed_with(path, signer)
    _, public = write_pair(new_key("ec-p256"), path.parent / "other")
    for way in (api.verify, api.inspect):
        with pytest.raises(SignatureError, match="not trusted"):
            way(path, keys=Keys(trust=(str(public),)))


@pytest.mark.parametrize("change", ["changed", "added", "removed", "manifest"])
def test_whatever_was_changed_after_signing_fails_the_signature(path: Path, signer: PrivateKey, change: str) -> None:
    keys = signed_with(path, signer)

    def tampered(contents: dict[str, bytes]) -> dict[str, bytes]:
        """Change the files and the digests in the manifest with them, as who can write the file can."""
        signature = contents.pop("signature.json")
        manifest = json.loads(contents.pop("manifest.json"))
        if change == "changed":
            contents[MODEL] = nets.mlp(64, seed=1).SerializeToString()
        elif change == "added":
            contents["evidence/more.json"] = b"{}"
        elif change == "removed":
            del contents["evidence/plan.json"]
        else:
            manifest["licence"] = "MIT"
        files = {name: data for name, data in contents.items() if name != "format.json"}
        manifest["files"] = {name: record(data) for name, data in files.items()}
        return {**contents, "manifest.json": json.dumps(manifest).encode(), "signature.json": signature}

    repacked(path, tampered)
    api.verify(path)  # sound in itself
    with pytest.raises(SignatureError):
        api.verify(path, keys)
    with pytest.raises(SignatureError):
        api.run(path, "absent.npz", path.parent / "out.npz", keys=keys)


def record(data: bytes) -> dict[str, object]:
    import hashlib

    found = FileRecord(hashlib.sha256(data).hexdigest(), len(data))
    return {"sha256": found.sha256, "size": found.size}


def test_the_signature_of_another_package_does_not_hold(path: Path, signer: PrivateKey, tmp_path: Path) -> None:
    other = tmp_path / "other.ship"
    write_package(other, MANIFEST, {MODEL: nets.mlp(64, seed=2).SerializeToString()}, sign_with=signer)
    keys = signed_with(path, signer)
    with Archive(other) as archive:
        theirs = archive.read("signature.json", 2**20)
    repacked(path, lambda contents: {**contents, "signature.json": theirs})
    with pytest.raises(SignatureError):
        api.verify(path, keys)


def test_a_sealed_file_that_changes_between_check_and_load_is_not_taken(
    tmp_path: Path, key: PrivateKey, signer: PrivateKey, model: bytes
) -> None:
    path, twin = tmp_path / "net.ship", tmp_path / "twin.ship"
    write_package(path, MANIFEST, {MODEL: model}, [key.public], signer)
    with open_package(path, key, [signer.public]) as package:
        with Archive(path) as archive, path.open("r+b") as file:
            file.seek(archive["sealed/1"].offset + 5)
            file.write(b"changed")
        with pytest.raises((PackageError, SealError)):
            package.read(MODEL)
    assert not twin.exists()


def test_an_unsealed_file_that_changes_between_check_and_load_is_not_taken(path: Path, signer: PrivateKey) -> None:
    signed_with(path, signer)
    with open_package(path, None, [signer.public]) as package:
        with Archive(path) as archive, path.open("r+b") as file:
            file.seek(archive[MODEL].offset + 5)
            file.write(b"changed")
        with pytest.raises(PackageError, match="was changed"):
            package.read(MODEL)
