"""Bits are given out as an exhaustive search would give them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tightship.errors import UsageError
from tightship.rounding.allocation import least_cost, least_noise


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_the_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise, cost = rng.exponential(size=(5, 3)), rng.uniform(1, 9, size=(5, 3))
    limit = float(cost.mean(axis=1).sum())
    choices = [list(columns) for columns in product(range(3), repeat=5)]
    every = [(noise[range(5), columns].sum(), cost[range(5), columns].sum()) for columns in choices]
    found = least_noise(noise, cost, limit)
    assert cost[range(5), found].sum() <= limit
    assert noise[range(5), found].sum() == pytest.approx(min(made for made, paid in every if paid <= limit), rel=1e-3)
    found = least_cost(noise, cost, 3.0)
    assert cost[range(5), found].sum() == pytest.approx(min(paid for made, paid in every if made <= 3.0), rel=1e-3)


def test_a_limit_that_nothing_meets_is_refused_with_the_least_there_is() -> None:
    with pytest.raises(UsageError, match="stays below 1; the least there is is 4"):
        least_noise(np.ones((2, 2)), np.full((2, 2), 2.0), 1.0)
