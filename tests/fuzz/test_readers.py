"""Every reader of the table ends on a few damaged files, always the same ones, as it should; `make fuzz` tries more."""

from __future__ import annotations

import pytest

from tests.fuzz.readers import READERS
from tests.fuzz.trial import fuzz

N_INPUTS = 150


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_with_a_type(name: str) -> None:
    outcome = fuzz(READERS[name], seconds=60, n_inputs=N_INPUTS, seed=0)
    assert not outcome.failures, outcome.failures[0]
    assert outcome.n_inputs > 5
    assert set(outcome.ends) - {"read"}  # the damage was noticed at least once
