"""The table of operators finds the entry that answers for a version, and reads schemas off signatures."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tightship.core.operators import Operators


def gemm(a: Any, b: Any, c: Any = None, *, alpha: float = 1.0, transA: int) -> tuple[Any, ...]:
    return a, b, c, alpha, transA


def table() -> Operators:
    operators = Operators()
    operators.op("Gemm", since=7)(gemm)
    operators.rows(("Abs", 6, abs), ("Abs", 13, abs))
    return operators


def test_find_returns_the_newest_entry_that_is_not_newer_than_the_opset() -> None:
    operators = table()
    found = {opset: operators.find("Abs", opset) for opset in (5, 6, 12, 13, 99)}
    assert {opset: entry and entry.since for opset, entry in found.items()} == {5: None, 6: 6, 12: 6, 13: 13, 99: 13}


def test_domains_are_apart() -> None:
    operators = table()
    operators.add("Abs", 1, abs, domain="mine")
    assert operators.find("Gemm", 20, "mine") is None
    assert operators.names("mine") == ("Abs",)
    assert operators.names() == ("Abs", "Gemm")


def test_oldest_says_from_which_opset_on_an_operator_is_known() -> None:
    operators = table()
    oldest = operators.oldest("Gemm")
    assert oldest is not None
    assert oldest.since == 7
    assert operators.oldest("Conv") is None


def test_a_signature_is_a_schema() -> None:
    entry = table().find("Gemm", 20)
    assert entry is not None
    assert [parameter.name for parameter in entry.inputs] == ["a", "b", "c"]
    assert entry.attributes == {"alpha": 1.0, "transA": inspect.Parameter.empty}
    assert entry.unknown({"alpha": 1, "beta": 2}) == ("beta",)
    assert entry.missing({"alpha": 1}) == ("transA",)
    assert entry([1, 2], {"transA": 0}) == (1, 2, None, 1.0, 0)


def test_a_function_without_a_signature_has_no_attributes() -> None:
    operators = Operators()
    operators.add("Max", 8, max)  # written in C
    entry = operators.find("Max", 8)
    assert entry is not None
    assert entry.attributes == {}
    assert entry.inputs == ()
    assert entry([1, 3], {}) == 3


def test_two_entries_of_one_version_are_refused() -> None:
    with pytest.raises(ValueError, match="::Gemm version 7 is entered twice"):
        table().add("Gemm", 7, gemm)


def test_the_table_gives_all_its_entries() -> None:
    assert sorted((entry.name, entry.since) for entry in table()) == [("Abs", 6), ("Abs", 13), ("Gemm", 7)]
