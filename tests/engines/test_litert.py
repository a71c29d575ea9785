"""LiteRT: keeps the rules of every engine, and no file can end the process."""

# ruff: noqa: F401 - the rules of every engine are imported so that they are collected here, with this file's fixtures

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engines.test_contract import (
    arrays,
    keras_model,
    test_a_file_that_is_no_model_or_missing_is_an_engine_error,
    test_a_model_of_another_form_is_an_engine_error,
    test_a_precision_that_the_processor_lacks_is_an_engine_error,
    test_a_session_closes_at_the_end_of_its_block,
    test_a_session_may_be_closed_twice_and_then_runs_no_more,
    test_an_engine_that_is_not_installed_names_the_command,
    test_bytes_that_are_no_model_are_an_engine_error,
    test_every_precision_on_offer_is_as_near_as_its_mantissa,
    test_inputs_may_be_read_only_and_not_contiguous,
    test_inputs_of_another_type_are_an_engine_error_or_converted,
    test_inputs_that_do_not_fit_are_an_engine_error,
    test_outputs_come_by_name_with_the_values_of_the_model,
    test_outputs_may_be_written_without_touching_inputs_or_later_runs,
    test_outputs_of_one_run_are_not_changed_by_the_next,
)
from tightship import formats
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.engines import ENGINES, Engine, open_session
from tightship.engines.litert import LiteRt
from tightship.errors import EngineError

pytest.importorskip("ai_edge_litert")
pytest.importorskip("tensorflow")


@pytest.fixture
def engine() -> Engine:
    return ENGINES["litert"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return formats.write(keras_model(), tmp_path_factory.mktemp("litert") / "net.tflite").path


@pytest.fixture
def model(file: Path) -> Path:
    return file


@pytest.fixture
def session(file: Path) -> Iterator[Session]:
    with open_session(file, Target("litert", threads=1)) as opened:
        yield opened


def test_the_session_describes_the_file(session: Session) -> None:
    assert session.target == Target("litert", threads=1)
    assert [str(spec) for spec in session.inputs] == ["a: float32[?, 8, 64]", "b: float32[?, 8, 64]"]
    assert [str(spec) for spec in session.outputs] == ["total: float32[?, 8, 64]", "product: float32[?, 8, 64]"]


def test_bytes_run_as_the_file_does(file: Path, session: Session) -> None:
    with open_session(file.read_bytes(), Target("litert")) as other:
        for name, array in other.run(arrays()).items():
            np.testing.assert_array_equal(array, session.run(arrays())[name])


def test_the_number_of_items_may_change_from_run_to_run_and_after_a_failure(session: Session) -> None:
    for count in (1, 4, 2):
        inputs = arrays(count)
        np.testing.assert_array_equal(session.run(inputs)["product"], inputs["a"] * inputs["b"])
        with pytest.raises(EngineError):  # the two do not fit each other
            session.run({"a": inputs["a"], "b": arrays(count + 1)["b"][:, :, :63]})


def test_unknown_inputs_are_named(session: Session) -> None:
    with pytest.raises(EngineError, match="unknown input c"):
        session.run({**arrays(), "c": np.zeros(1, np.float32)})


def test_a_content_is_tried_in_a_child_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr("tightship.engines.litert._TRIED", set())
    monkeypatch.setattr("tightship.engines.litert.run_in_child", lambda *_, **__: tried.append(1))
    for source in (file, file, file.read_bytes()):
        open_session(source, Target("litert")).close()
    assert len(tried) == 1


def test_a_file_that_ends_the_process_is_an_engine_error(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is made to end as a parser that writes where it should not does."""
    (tmp_path / "crashing.py").write_text("import os\ndef trial(path):\n    os.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tightship.engines.litert._TRIED", set())
    monkeypatch.setattr("tightship.engines.litert._TRIAL", "crashing:trial")
    with pytest.raises(EngineError, match=r"net\.tflite: .*SIGABRT"):
        open_session(file, Target("litert"))


def test_no_damaged_file_ends_this_process(file: Path, tmp_path: Path) -> None:
    """Every eighth of the file is damaged in turn; each opens or is an engine error."""
    whole, refused = file.read_bytes(), 0
    for position in range(8, len(whole), len(whole) // 8):
        damaged = bytearray(whole)
        damaged[position : position + 16] = b"\xff" * len(damaged[position : position + 16])
        path = tmp_path / f"{position}.tflite"
        path.write_bytes(damaged)
        try:
            with open_session(path, Target("litert")) as session:
                session.run({spec.name: np.zeros(spec.resolve(), spec.dtype) for spec in session.inputs})
        except EngineError as error:
            assert error.exit_code == 9
            refused += 1
    assert refused


def test_the_row_says_that_it_opens_files_only() -> None:
    assert LiteRt.form is None
    assert LiteRt().precisions() == ("f32",)
