"""Every operator of the tables of MIL: built by coremltools, saved, read back, and run in ONNX Runtime."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")

from coremltools.converters.mil import Builder as mb

from tests.formats.mil_cases import CASES
from tests.formats.mil_running import Case, inferred, results
from tightship.formats.mil import operators
from tightship.formats.mil.table import DECOMPRESSED, OPERATORS, WALKED

DRAWN = ("random_bernoulli", "random_categorical", "random_normal", "random_uniform")
ELSEWHERE = ("classify", "const")
"""In `test_mil`: coremltools saves labels for classifiers that it converts only, and every program has constants."""


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """coremltools collects garbage at every conversion; what is loaded already need not be looked through."""
    gc.freeze()
    yield
    gc.unfreeze()


def expected(case: Case) -> list[np.ndarray]:
    if case.expected is None:
        return inferred(case)
    found = case.expected(**case.inputs)
    return [np.asarray(value) for value in (found if isinstance(found, list | tuple) else [found])]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_read_back_gives_what_it_says(case: Case) -> None:
    for found, wanted in zip(results(case), expected(case), strict=True):
        assert found.shape == wanted.shape
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, rtol=case.rtol, atol=case.atol)
        else:
            np.testing.assert_array_equal(found, wanted)


def test_every_operator_of_the_tables_has_a_case() -> None:
    operators.load()
    known = {*OPERATORS.names(), *DECOMPRESSED.names(), *WALKED}
    assert known - {case.kind for case in CASES} - {*DRAWN, *ELSEWHERE} == set()


def test_every_version_of_an_operator_has_a_case() -> None:
    operators.load()
    for table in (OPERATORS, DECOMPRESSED):
        newer = {entry.name: entry.since for entry in table if entry.since > table.oldest(entry.name).since}
        for name, since in newer.items():
            assert any(case.kind == name and case.opset >= since for case in CASES), f"{name} of iOS {since}"


def drawn(build: Any, **inputs: np.ndarray) -> np.ndarray:
    return results(Case("random", build, inputs))[0]


SHAPE = np.array([100, 200], np.int32)


@pytest.mark.parametrize("computed", [False, True])
def test_random_numbers_have_the_distribution_that_is_asked_for(computed: bool) -> None:
    """Of 20,000 numbers; the bounds are five standard errors wide."""

    def shape(s: Any) -> Any:
        return s if computed else [100, 200]

    normal = drawn(lambda s: mb.random_normal(shape=shape(s), mean=3.0, stddev=2.0, seed=1), s=SHAPE)
    assert normal.shape == (100, 200)
    assert abs(normal.mean() - 3) < 5 * 2 / 141
    assert abs(normal.std() - 2) < 5 * 2 / 200
    uniform = drawn(lambda s: mb.random_uniform(shape=shape(s), low=-1.0, high=3.0, seed=1), s=SHAPE)
    assert uniform.min() >= -1 and uniform.max() < 3
    assert abs(uniform.mean() - 1) < 5 * 1.16 / 141
    bernoulli = drawn(lambda s: mb.random_bernoulli(shape=shape(s), prob=0.3, seed=1), s=SHAPE)
    assert set(np.unique(bernoulli)) == {0.0, 1.0}
    assert abs(bernoulli.mean() - 0.3) < 5 * 0.46 / 141


@pytest.mark.parametrize("mode", ["probs", "logits"])
def test_random_categories_come_as_often_as_their_probabilities_say(mode: str) -> None:
    probabilities = np.array([[[0.1, 0.2, 0.7]]], np.float32)
    given = probabilities if mode == "probs" else np.log(probabilities)
    found = drawn(lambda x: mb.random_categorical(x=x, mode=mode, size=20000, seed=1), x=given)
    assert found.shape == (1, 1, 20000)
    shares = [(found == number).mean() for number in range(3)]
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.7], atol=5 * 0.46 / 141)


def test_the_cases_are_saved_as_they_were_built(tmp_path: Path) -> None:
    """A case in which coremltools puts another operator would prove nothing of its own."""
    from coremltools.proto import Model_pb2

    from tests.formats.mil_running import saved

    for case in CASES[::25]:
        message = saved(case, tmp_path) / "Data" / "com.apple.CoreML" / "model.mlmodel"
        spec = Model_pb2.Model.FromString(message.read_bytes())
        function = spec.mlProgram.functions["main"]
        kinds = {operation.type for operation in function.block_specializations[function.opset].operations}
        assert case.kind in kinds
