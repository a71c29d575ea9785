"""Scales moved before weights are coded: the outputs stay, and codes of few bits lose less."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.blocks import WIDTH, correlated, decoder
from tests.passes.running import relative_error, run, written
from tightship.core.dataset import Dataset
from tightship.core.model import Model
from tightship.errors import DatasetError
from tightship.passes.awq import Awq
from tightship.passes.weight_only import WeightOnly


def uneven() -> Model:
    """A normalization whose gains differ a hundredfold, as those of trained transformers do, and two products."""
    rng = np.random.default_rng(0)
    gain = np.exp(rng.uniform(-3, 2, WIDTH)).astype(np.float32)
    w, v = (rng.standard_normal((WIDTH, 96)).astype(np.float32) for _ in range(2))
    text = f"""n (float[N, {WIDTH}] x) => (float[N, 96] y, float[N, 96] z) {{
        h = LayerNormalization <axis = -1> (x, gain)
        y = MatMul (h, w)
        z = MatMul (h, v)
    }}"""
    return written(text, gain=gain, w=w, v=v)


def inputs(seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((256, WIDTH)).astype(np.float32)}


def test_outputs_stay_and_codes_lose_less() -> None:
    model, held_out = uneven(), inputs(1)
    made = Awq(bits=4, block=32).apply(model, Dataset.from_arrays("x", "0", inputs(0)))
    wanted = run(model, held_out)
    assert relative_error(run(made.model, held_out)["y"], wanted["y"]) < 1e-5
    nearest = WeightOnly(bits=4)
    coded = [run(nearest.apply(each).model, held_out, "openvino") for each in (model, made.model)]
    for output in ("y", "z"):
        plain, awq = (relative_error(found[output], wanted[output]) for found in coded)
        assert awq < 0.9 * plain


def test_a_decoder_is_scaled_behind_its_normalizations_and_between_products() -> None:
    model, held_out = decoder(), dict(next(correlated(seed=1).open()).inputs)
    made = Awq(bits=4, block=32).apply(model, correlated())
    assert any("groups of products changed" in note for note in made.notes)
    assert relative_error(run(made.model, held_out)["y"], run(model, held_out)["y"]) < 1e-5


def test_it_says_that_it_needs_data() -> None:
    with pytest.raises(DatasetError, match="awq needs data and got none"):
        Awq().apply(uneven())
