"""Means over activations: the same however they come in batches, in place, and only of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rounding.problems import Activations, moments_of
from tightship.errors import DatasetMismatch
from tightship.rounding.second_moment import SecondMoment

LARGEST_ROUNDING = 2e-6
"""Of float32 sums over a few thousand rows, relative to the largest entry: a few units in the last place."""


def close(found: np.ndarray | None, wanted: np.ndarray) -> bool:
    assert found is not None
    return bool(np.abs(found - wanted).max() < LARGEST_ROUNDING * np.abs(wanted).max())


def test_moments_are_the_means_of_products() -> None:
    source = Activations(40)
    x_float = source.draw(4200)
    x = source.drifted(x_float, 0.1)
    moments = moments_of(x, x_float)
    exact, exact_float = x.astype(np.float64), x_float.astype(np.float64)
    assert moments.n_rows == 4200
    assert close(moments.hessian, exact.T @ exact / 4200)
    assert close(moments.cross, (exact_float - exact).T @ exact / 4200)


def test_batches_of_any_size_and_shape_give_the_same_as_one() -> None:
    source = Activations(24)
    x_float = source.draw(720)
    x = source.drifted(x_float, 0.1)
    gathered = SecondMoment(24, paired=True)
    gathered.add(x[:1], x_float[:1])
    gathered.add(x[1:120], x_float[1:120])
    gathered.add(x[120:].reshape(5, 120, 24), x_float[120:].reshape(5, 120, 24))
    found, wanted = gathered.moments(), moments_of(x, x_float)
    assert found.n_rows == wanted.n_rows
    assert close(found.hessian, wanted.hessian)
    assert wanted.cross is not None
    assert close(found.cross, wanted.cross)


def test_the_second_moment_is_symmetric_to_the_bit() -> None:
    # More columns than are mirrored at a time.
    x = np.random.default_rng(0).standard_normal((5, 1100), np.float32)
    hessian = moments_of(x).hessian
    assert np.array_equal(hessian, hessian.T)


def test_more_may_be_added_after_the_means_were_read() -> None:
    x = Activations(16).draw(300)
    gathered = SecondMoment(16)
    gathered.add(x[:100])
    gathered.moments()
    gathered.add(x[100:])
    assert close(gathered.moments().hessian, x.astype(np.float64).T @ x / 300)


def test_an_empty_batch_changes_nothing() -> None:
    x = Activations(16).draw(30)
    gathered = SecondMoment(16)
    gathered.add(x)
    gathered.add(x[:0])
    assert gathered.moments().n_rows == 30


def test_no_activations_at_all_are_refused() -> None:
    with pytest.raises(DatasetMismatch, match="at least one row"):
        SecondMoment(4).moments()


def test_activations_of_another_width_are_refused() -> None:
    with pytest.raises(DatasetMismatch, match=r"must have 4 columns, found shape \(3, 5\)"):
        SecondMoment(4).add(np.zeros((3, 5), np.float32))


@pytest.mark.parametrize("paired", [False, True])
def test_one_stream_too_many_or_too_few_is_refused(paired: bool) -> None:
    x = np.zeros((3, 4), np.float32)
    with pytest.raises(DatasetMismatch, match="as `paired` says"):
        SecondMoment(4, paired=paired).add(x, None if paired else x)


def test_streams_of_unequal_length_are_refused() -> None:
    with pytest.raises(DatasetMismatch, match=r"must have shape \(3, 4\), found \(2, 4\)"):
        SecondMoment(4, paired=True).add(np.zeros((3, 4), np.float32), np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    x = np.zeros((3, 4), np.float32)
    x[1, 2] = bad
    gathered = SecondMoment(4)
    with pytest.raises(DatasetMismatch, match="must be finite"):
        gathered.add(x)
    assert gathered.n_rows == 0
