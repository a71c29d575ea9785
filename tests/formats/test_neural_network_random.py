"""Random layers: shape, mean and spread of what they give."""

from __future__ import annotations

import numpy as np
import pytest

from tests.formats.neural_network_cases import build, run

SHAPE = (60, 70)
KINDS = {
    "normal": ({"mean": 2.0, "stddev": 3.0}, 2.0, 3.0),
    "uniform": ({"minval": 1.0, "maxval": 5.0}, 3.0, 4 / np.sqrt(12)),
    "bernoulli": ({"prob": 0.3}, 0.3, np.sqrt(0.21)),
}


@pytest.mark.parametrize("where", ["like", "static", "dynamic"])
@pytest.mark.parametrize("kind", KINDS)
def test_random_numbers_have_the_stated_mean_and_spread(kind: str, where: str) -> None:
    options, mean, spread = KINDS[kind]
    x = np.array(SHAPE) if where == "dynamic" else np.zeros(SHAPE)
    given = {
        "like": {"input_name": "x", "output_name": "y"},
        "static": {"output_name": "y", "output_shape": SHAPE},
        "dynamic": {"input_names": ["x"], "output_name": "y"},
    }[where]
    spec = build({"x": x.shape}, lambda b: getattr(b, f"add_random_{kind}_{where}")("l", seed=3, **given, **options))
    found = run(spec, {"x": x})["y"]
    assert found.shape == SHAPE
    # 4,200 numbers: five standard errors of the mean; the spread within a tenth.
    assert abs(found.mean() - mean) < 5 * spread / np.sqrt(found.size)
    assert abs(found.std() / spread - 1) < 0.1


@pytest.mark.parametrize("logits", [True, False])
def test_categories_are_drawn_by_their_probabilities(logits: bool) -> None:
    probabilities = np.array([[0.1, 0.6, 0.3], [0.5, 0.5, 0.0]])
    x = np.log(probabilities + 1e-10) if logits else probabilities
    spec = build(
        {"x": x.shape}, lambda b: b.add_categorical_distribution("l", "x", "y", 4000, is_logits=logits, seed=3)
    )
    found = run(spec, {"x": x})["y"]
    assert found.shape == (2, 4000)
    counts = np.stack([np.bincount(row.astype(int), minlength=3) for row in found]) / 4000
    np.testing.assert_allclose(counts, probabilities, atol=0.04)  # five standard errors
