"""Finished steps are found again; torn ones never are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tightship.core.store import Store
from tightship.core.target import Target


@dataclass(frozen=True)
class Point:
    x: float
    labels: tuple[str, ...]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "work").open()


def test_a_value_is_computed_once_and_comes_back_equal(store: Store) -> None:
    calls: list[int] = []

    def compute() -> Point:
        calls.append(1)
        return Point(0.1 + 0.2, ("a", "b"))

    first = store.value("step", {"a": 1}, Point, compute)
    assert store.value("step", {"a": 1}, Point, compute) == first == Point(0.1 + 0.2, ("a", "b"))
    assert len(calls) == 1


def test_other_parts_are_another_step(store: Store) -> None:
    assert store.value("step", Target(threads=1), int, lambda: 1) == 1
    assert store.value("step", Target(threads=2), int, lambda: 2) == 2


def test_the_order_of_a_mapping_does_not_matter(store: Store) -> None:
    assert store.value("step", {"a": 1, "b": 2}, int, lambda: 1) == 1
    assert store.value("step", {"b": 2, "a": 1}, int, lambda: 2) == 1


def test_steps_from_before_a_fresh_start_are_done_again_once(store: Store) -> None:
    store.value("step", 1, int, lambda: 1)
    path = next(store.root.iterdir())
    os.utime(path, (1000, 1000))
    fresh = Store(store.root, since=2000)
    assert fresh.value("step", 1, int, lambda: 2) == 2
    assert fresh.value("step", 1, int, lambda: 3) == 2
    assert store.value("step", 1, int, lambda: 4) == 2


def test_a_file_is_written_once_with_what_lies_beside_it(store: Store) -> None:
    def write(path: Path) -> None:
        path.write_text("model")
        path.with_suffix(".data").write_text("weights")

    path = store.file("build", "key", "model.onnx", write)
    assert path.read_text() == "model" and path.with_suffix(".data").read_text() == "weights"
    assert store.file("build", "key", "model.onnx", lambda _: pytest.fail("written twice")) == path


def test_a_failure_while_writing_leaves_no_entry(store: Store) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.file("build", "key", "model.onnx", fail)
    assert list(store.root.iterdir()) == []
