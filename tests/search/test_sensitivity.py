"""The ratio that ranks operators: finite whatever the outputs are, and lower where it is worse."""

from __future__ import annotations

import numpy as np
import pytest

from tightship.search.sensitivity import SQNR_CEILING_DB, _sqnr_db

SIGNAL = [{"y": np.array([3.0, 4.0], np.float32)}]


@pytest.mark.parametrize(
    ("found", "expected_db"),
    [
        ([3.0, 4.0], SQNR_CEILING_DB),
        ([3.5, 4.0], 20.0),  # 25 / 0.25
        ([np.nan, 4.0], -SQNR_CEILING_DB),
        ([np.inf, 4.0], -SQNR_CEILING_DB),
    ],
)
def test_the_ratio_is_of_signal_to_noise_and_finite(found: list[float], expected_db: float) -> None:
    assert _sqnr_db(SIGNAL, [{"y": np.array(found, np.float32)}]) == pytest.approx(expected_db)
