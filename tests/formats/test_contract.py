"""What every row of the table of formats keeps, without any being named."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tightship import formats
from tightship.core import extras
from tightship.core.model import Form
from tightship.errors import ArtifactNotFound, TightshipError, UnknownFormat
from tightship.formats import FORMATS, Format

WITH_FILES = [entry for entry in FORMATS.values() if entry.suffixes]


def by_name(entry: Format) -> str:
    return entry.name


@pytest.fixture(params=FORMATS.values(), ids=by_name)
def entry(request: pytest.FixtureRequest) -> Format:
    return request.param


@pytest.fixture(params=WITH_FILES, ids=by_name)
def file_format(request: pytest.FixtureRequest) -> Format:
    if request.param.reads_into == "module" and not extras.available("torch"):
        pytest.skip("PyTorch is not installed")
    if "tensorflow" in request.param.reads_with and not extras.available("tensorflow"):
        pytest.skip("TensorFlow is not installed")
    return request.param


def test_a_format_is_found_under_its_own_name(entry: Format) -> None:
    assert FORMATS[entry.name] is entry


def test_a_format_reads_into_and_writes_from_forms_that_exist(entry: Format) -> None:
    forms = set(get_args(Form))
    assert {entry.reads_into} - {None} <= forms
    assert set(entry.writes_from) <= forms
    assert entry.reads_into or entry.writes_from


def test_a_format_says_what_it_is(entry: Format) -> None:
    assert (type(entry).__doc__ or "").strip().endswith(".")


def test_no_two_formats_share_a_suffix() -> None:
    suffixes = [suffix for entry in FORMATS.values() for suffix in entry.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)


def test_a_suffix_is_recognised_in_any_case(file_format: Format) -> None:
    for suffix in file_format.suffixes:
        assert file_format.recognise(f"folder/Model{suffix}")
        assert file_format.recognise(f"folder/Model{suffix.upper()}")


def test_a_name_is_recognised_by_one_format(file_format: Format) -> None:
    source = f"model{file_format.suffixes[0]}"
    assert [entry.name for entry in FORMATS.values() if entry.recognise(source)] == [file_format.name]


def test_a_missing_file_is_not_found(file_format: Format, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match=r"missing\."):
        formats.recognise(str(tmp_path / f"missing{file_format.suffixes[0]}"))


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"hello, I am no model", b"PK\x03\x04" + b"\0" * 64])
def test_a_file_that_is_no_model_is_refused_by_its_path(file_format: Format, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"model{file_format.suffixes[0]}"
    path.write_bytes(content)
    named = path.name if file_format.reads_into else path.stem  # of several files, another may be missing
    with pytest.raises(TightshipError, match=named) as caught:
        formats.read(formats.recognise(str(path)))
    assert caught.value.exit_code == 3 or (file_format.reads_into is None and caught.value.exit_code == 5)


def test_an_unknown_suffix_names_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat) as caught:
        formats.recognise(str(tmp_path / "model.docx"))
    assert all(suffix in str(caught.value) for entry in WITH_FILES for suffix in entry.suffixes)
