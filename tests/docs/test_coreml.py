"""The page on Core ML has the table of operators that the code has, and enough of them are read."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("coremltools")

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    found = importlib.util.spec_from_file_location("generate_coreml", DOCS / "generate_coreml.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_page_on_core_ml_is_as_the_tables_are(generator: ModuleType) -> None:
    assert generator.page() == generator.PAGE.read_text(), "run `python docs/generate_coreml.py` and commit the page"


def test_at_least_85_percent_of_the_operators_are_read(generator: ModuleType) -> None:
    (share,) = re.findall(r"\((\d+) %\) are read", generator.page())
    assert int(share) >= 85


def test_every_operator_that_is_not_read_has_its_reason(generator: ModuleType) -> None:
    rows = re.findall(r"\| `(\w+)` \| \d+ \| no \| (.*) \|", generator.page())
    assert rows and all(reason for _, reason in rows)


def test_what_is_said_of_parts_is_said_of_operators_that_are_read(generator: ModuleType) -> None:
    assert generator.PARTS.keys() <= {name for name in generator.known() if generator._is_read(name)}
