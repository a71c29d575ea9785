"""SmoothQuant: scales moved from behind a normalization into the weights that read it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.running import made_up_inputs, relative_error, run, written
from tightship.core.dataset import Dataset
from tightship.core.model import Model
from tightship.errors import DatasetError, UsageError
from tightship.passes.int8_static import Int8Static
from tightship.passes.smooth import Smooth

ROUNDING = 1e-5
"""Float32: each weight and activation is rounded once more than before."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def with_outliers(n: int) -> np.ndarray:
    """The gain of a normalization in which three channels are fifty times the others, as in large transformers."""
    gain = 1 + 0.1 * normal(n)
    gain[[3, 17, 40]] *= 50
    return gain


def encoder(normalization: str, **more: np.ndarray) -> Model:
    return written(
        f"""net (float[N, 6, 64] x) => (float[N, 6, 32] y) {{
            {normalization}
            q = MatMul (n, wq)
            k = MatMul (n, wk)
            s = Mul (q, k)
            y = Relu (s)
        }}""",
        g=with_outliers(64),
        wq=normal(64, 32) / 8,
        wk=normal(64, 32, seed=1) / 8,
        **more,
    )


NORMALIZATIONS = {
    "layer normalization": encoder("n = LayerNormalization (x, g, b)", b=normal(64)),
    "without a bias": encoder("n = LayerNormalization (x, g)"),
    "decomposed RMS normalization": encoder(
        """p = Mul (x, x)  m = ReduceMean <axes = [-1]> (p)  e = Add (m, eps)  r = Sqrt (e)  d = Div (x, r)
           n = Mul (g, d)""",
        eps=np.float32(1e-6),
    ),
}


def calibration(model: Model) -> Dataset:
    return Dataset.from_arrays("made up", "0", made_up_inputs(model, batch=64, seed=1))


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 0.8])
@pytest.mark.parametrize("model", NORMALIZATIONS.values(), ids=list(NORMALIZATIONS))
def test_outputs_stay_the_same(model: Model, alpha: float) -> None:
    result, inputs = Smooth(alpha).apply(model, calibration(model)), made_up_inputs(model, batch=8)
    assert result.changed
    assert relative_error(run(result.model, inputs)["y"], run(model, inputs)["y"]) < ROUNDING


@pytest.mark.parametrize("model", NORMALIZATIONS.values(), ids=list(NORMALIZATIONS))
def test_int8_loses_less_after_it(model: Model) -> None:
    data, inputs = calibration(model), made_up_inputs(model, batch=64, seed=2)
    wanted = run(model, inputs)["y"]
    before = Int8Static().apply(model, data).model
    after = Int8Static().apply(Smooth().apply(model, data).model, data).model
    assert relative_error(run(after, inputs)["y"], wanted) < 0.75 * relative_error(run(before, inputs)["y"], wanted)


def test_the_search_is_at_least_as_good_as_any_alpha_that_it_tries() -> None:
    from tightship.passes.channel_scales import ALPHAS

    model = NORMALIZATIONS["layer normalization"]
    data, inputs = calibration(model), made_up_inputs(model, batch=64, seed=2)
    wanted = run(model, inputs)["y"]

    def error(alpha: float) -> float:
        after = Int8Static().apply(Smooth(alpha).apply(model, data).model, data).model
        return relative_error(run(after, inputs)["y"], wanted)

    # The noise is predicted for uniform errors; the true ones of a single draw differ by a tenth.
    assert error(-1.0) < 1.1 * min(map(error, ALPHAS))


def test_a_normalization_that_something_else_reads_too_stays_as_it_is() -> None:
    model = written(
        """net (float[N, 6, 64] x) => (float[N, 6, 64] y) {
            n = LayerNormalization (x, g)  a = MatMul (n, w)  y = Add (a, n)
        }""",
        g=with_outliers(64),
        w=normal(64, 64),
    )
    assert not Smooth().apply(model, calibration(model)).changed


def test_an_alpha_above_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"alpha must be 0 to 1, or negative to be searched, found 1\.5"):
        Smooth(1.5)


def test_calibration_data_is_required() -> None:
    with pytest.raises(DatasetError, match="needs data"):
        Smooth().apply(NORMALIZATIONS["without a bias"])
