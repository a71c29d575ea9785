"""The page of the zoo is what its results say, and no failing cell is left without words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.report import RESULTS
from benchmarks.zoo.page import PAGE, PROVEN, page

RESULT = RESULTS / "zoo.json"
MACHINE = {
    "processor": "a processor", "n_cores": 2, "system": "Linux", "python": "3.11", "versions": {"onnx": "1.0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    return loaded


def cell(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "format": "onnx", "verdict": "equal", "message": "", "cpu_s": 2.4, **fields}


def test_the_page_is_as_the_results_are(document: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(document), "run `make zoo` and commit docs/zoo.md"


def test_the_results_name_machine_and_versions(document: dict[str, Any]) -> None:
    assert document["machine"]["processor"]
    assert {"onnx", "torch", "onnxruntime"} <= set(document["machine"]["versions"])


def test_every_proven_cell_has_its_error_within_the_tolerance(document: dict[str, Any]) -> None:
    for row in document["rows"]:
        if row["verdict"] in PROVEN:
            assert 0 <= row["error"] <= 1, row


def test_every_other_cell_says_why(document: dict[str, Any]) -> None:
    assert [row for row in document["rows"] if row["verdict"] not in PROVEN and not row["message"]] == []


def test_no_path_of_the_machine_is_in_the_results() -> None:
    for folder in ("/root", "/home", "/tmp", "/work", "site-packages/"):
        assert folder not in RESULT.read_text(encoding="utf-8")


def test_a_cell_shows_error_share_of_tolerance_and_seconds() -> None:
    rows = [cell("a"), cell("b", verdict="within tolerance", max_abs=3.2e-7, error=0.021)]
    text = page({"rows": rows, "machine": MACHINE})
    assert "2 of 2 conversions are proven" in text
    assert "| a | =, 2 s |" in text
    assert "| b | 3e-07 (0.021), 2 s |" in text


def test_cells_that_fail_alike_share_one_explanation() -> None:
    rows = [cell(name, verdict="unsupported", message="no op X_Y") for name in ("a", "b")]
    text = page({"rows": rows, "machine": MACHINE})
    assert "| b | unsupported [1](#1) |" in text
    assert text.count(r"no op X\_Y") == 1
