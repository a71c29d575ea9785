"""The archive: one canonical form, readable by any zip tool, and nothing but that form is read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from tightship.errors import PackageError
from tightship.package.archive import Archive, ArchiveWriter, Entry, check_names

CONTENTS = {"first.txt": b"one", "folder/second.bin": bytes(range(256)) * 40, "empty": b"", "größe/é.json": b"{}"}


def written(contents: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    writer = ArchiveWriter(file)
    for name, content in contents.items():
        writer.add(name, content)
    writer.finish()
    return file.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.ship").write_bytes(written(CONTENTS))
    return tmp_path / "a.ship"


def test_what_was_written_is_read(path: Path) -> None:
    with Archive(path) as archive:
        assert {name: archive.read(name, 2**20) for name in archive.entries} == CONTENTS


def test_another_zip_reader_finds_the_same_and_every_checksum_right(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert {entry.filename: archive.read(entry) for entry in archive.infolist()} == CONTENTS
        assert archive.testzip() is None
        assert all(entry.compress_type == zipfile.ZIP_STORED and not entry.extra for entry in archive.infolist())


def test_the_same_contents_give_the_same_bytes() -> None:
    assert written(CONTENTS) == written(dict(CONTENTS))


def test_an_entry_is_read_in_blocks_that_follow_each_other_in_a_buffer(path: Path) -> None:
    buffer = memoryview(bytearray(len(CONTENTS["folder/second.bin"])))
    with Archive(path) as archive:
        assert b"".join(archive.blocks("folder/second.bin", buffer)) == CONTENTS["folder/second.bin"] == buffer


def test_an_entry_larger_than_allowed_is_not_read(path: Path) -> None:
    with Archive(path) as archive, pytest.raises(PackageError, match="has 10240 bytes, 100 are allowed"):
        archive.read("folder/second.bin", 100)


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(path: Path) -> None:
    with Archive(path) as archive:
        path.open("r+b").truncate(200)
        with pytest.raises(PackageError, match="became shorter"):
            list(archive.blocks("folder/second.bin"))


def test_a_file_that_is_replaced_is_read_as_it_was(path: Path, tmp_path: Path) -> None:
    with Archive(path) as archive:
        (tmp_path / "other").write_bytes(written({"first.txt": b"two"}))
        (tmp_path / "other").replace(path)
        assert archive.read("first.txt", 10) == b"one"


def test_an_entry_that_is_shorter_than_announced_is_an_error() -> None:
    writer = ArchiveWriter(io.BytesIO())
    with pytest.raises(PackageError, match="5 bytes were expected and 3 written"), writer.entry("a", 5) as sink:
        sink.write(b"abc")


def test_more_is_written_behind_entries_that_are_there(path: Path) -> None:
    with Archive(path) as archive, path.open("r+b") as file:
        writer = ArchiveWriter(file, list(archive.entries.values()))
        writer.add("late", b"more")
        writer.finish()
    assert path.read_bytes() == written({**CONTENTS, "late": b"more"})


@pytest.mark.parametrize("first_size", [0xFFFFFFFF - 1, 0xFFFFFFFF, 5 << 30])
def test_sizes_and_offsets_past_4_gib_are_read_as_zipfile_reads_them(tmp_path: Path, first_size: int) -> None:
    path = tmp_path / "large.ship"  # sparse: only the headers take room
    with path.open("w+b") as file:
        writer = ArchiveWriter(file)
        with writer.entry("large", first_size) as sink:
            sink.size = first_size
        writer.add("behind", b"small")
        writer.finish()
    with Archive(path) as archive, zipfile.ZipFile(path) as other:
        found = [(entry.name, entry.size, entry.header_offset) for entry in archive.entries.values()]
        assert found == [(info.filename, info.file_size, info.header_offset) for info in other.infolist()]
        assert archive.read("behind", 10) == other.read("behind") == b"small"
        assert archive["large"] == Entry("large", 0, first_size, 0)


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../up", "a/../../up", "a//b", "./a", "a/.", "a/", "C:/x", "a\\b", "a\0b", "a\nb", "x" * 600],
)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(PackageError):
        check_names([name])


@pytest.mark.parametrize("names", [["a", "a"], ["Model", "model"], ["a", "a/b"], ["x/y/z", "X/Y"]])
def test_names_that_cannot_lie_in_one_folder_are_refused(names: list[str]) -> None:
    with pytest.raises(PackageError):
        check_names(names)
