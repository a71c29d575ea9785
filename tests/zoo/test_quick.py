"""Five small models to every format that can be written here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.zoo.cells import QUICK, Entry, entries, run_cell, targets
from benchmarks.zoo.page import PROVEN


def entry(name: str) -> Entry:
    return next(entry for entry in entries() if entry.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", sorted(targets()))
@pytest.mark.parametrize("name", QUICK)
def test_the_conversion_is_proven(name: str, format_name: str, data_dir: Path) -> None:
    cell = run_cell(entry(name), format_name, targets()[format_name], timeout_s=600)
    assert cell.verdict in PROVEN, cell.message


def test_a_cell_whose_process_hangs_is_one_cell() -> None:
    cell = run_cell(Entry("hangs", "tests.zoo.trouble:hang"), "onnx", ".onnx", timeout_s=4)
    assert (cell.verdict, cell.message) == ("timeout", "stopped after 4 s")


def test_a_cell_whose_process_crashes_is_one_cell() -> None:
    cell = run_cell(Entry("crashes", "tests.zoo.trouble:crash"), "onnx", ".onnx", timeout_s=120)
    assert cell.verdict == "crash"
    assert "SIGSEGV" in cell.message


def test_a_model_that_cannot_be_built_is_refused_with_its_reason() -> None:
    cell = run_cell(Entry("fails", "tests.zoo.trouble:fail"), "onnx", ".onnx", timeout_s=120)
    assert cell.verdict == "refused"
    assert "raises ValueError: no such network" in cell.message
