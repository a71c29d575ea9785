"""How far two answers differ."""

from __future__ import annotations

import numpy as np
import pytest

from tightship.serve.rollout.disagreement import MEASURES

LOGITS = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)


def differ(measure: str, old: np.ndarray, new: np.ndarray) -> float:
    return MEASURES[measure]({"y": old}, {"y": new})


@pytest.mark.parametrize("measure", MEASURES)
def test_the_same_answers_do_not_differ(measure: str) -> None:
    assert differ(measure, LOGITS, LOGITS.copy()) == pytest.approx(0.0, abs=1e-12)


def test_class_is_the_share_of_rows_whose_largest_is_elsewhere() -> None:
    other = LOGITS.copy()
    other[0] = [0.9, 0.1]
    assert differ("class", LOGITS, other) == 0.25
    assert differ("class", LOGITS, 100 * LOGITS) == 0.0


def test_a_row_that_is_no_number_any_more_differs_even_where_its_class_would_be_the_same() -> None:
    broken = LOGITS.copy()
    broken[1] = np.nan
    assert differ("class", LOGITS, broken) == 0.25
    assert differ("values", LOGITS, broken) == 0.25


def test_values_is_the_share_of_elements_beyond_a_hundredth_of_the_largest() -> None:
    old = np.array([100.0, 1.0, 0.0, -50.0])
    assert differ("values", old, old + np.array([0.9, 0.9, 0.9, 1.1])) == 0.25


def test_infinities_of_the_same_sign_are_the_same() -> None:
    old = np.array([np.inf, -np.inf, np.nan, 1.0])
    assert differ("values", old, old.copy()) == 0.0
    assert differ("values", old, -old) == 0.75


def test_direction_is_of_the_row_that_turned_most() -> None:
    old = np.eye(3)
    assert differ("direction", old, 7 * old) == pytest.approx(0.0)
    assert differ("direction", old, -old) == pytest.approx(1.0)
    assert differ("direction", old, np.roll(old, 1, axis=0)) == pytest.approx(0.5)


def test_exact_is_the_share_of_elements_that_are_not_equal() -> None:
    assert differ("exact", np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert differ("auto", np.array([b"a", b"b"], object), np.array([b"a", b"c"], object)) == 0.5


def test_the_output_that_differs_most_counts() -> None:
    old = {"label": np.array([1, 2]), "y": LOGITS}
    assert MEASURES["auto"](old, {"label": np.array([1, 3]), "y": LOGITS}) == 0.5


@pytest.mark.parametrize("measure", MEASURES)
def test_another_shape_or_name_differs_wholly(measure: str) -> None:
    assert differ(measure, LOGITS, LOGITS[:2]) == 1.0
    assert MEASURES[measure]({"y": LOGITS}, {"z": LOGITS}) == 1.0


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), ()])
def test_answers_without_rows_or_axes_are_compared_too(measure: str, shape: tuple[int, ...]) -> None:
    assert differ(measure, np.ones(shape), np.ones(shape)) == 0.0


@pytest.mark.parametrize("measure", ["class", "values", "auto"])
def test_of_large_answers_a_sample_is_enough(measure: str) -> None:
    old = np.random.default_rng(0).random((40_000, 10))
    new = old.copy()
    new[::4] = -old[::4]
    assert differ(measure, old, new) == pytest.approx(0.25, abs=0.03)
