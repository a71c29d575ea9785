"""Scales moved between products: what is computed stays the same, and channels become of one size."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.running import made_up_inputs, relative_error, run, written
from tightship.core.dataset import Dataset
from tightship.core.model import Model
from tightship.passes.equalize import Equalize
from tightship.passes.int8_static import Int8Static

ROUNDING = 1e-5
"""Float32: each weight and activation is rounded once more than before."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def uneven(n: int) -> np.ndarray:
    """Sizes of channels, a thousand times between the smallest and the largest."""
    return np.geomspace(0.03, 30, n).astype(np.float32)


def calibration(model: Model) -> Dataset:
    return Dataset.from_arrays("made up", "0", made_up_inputs(model, batch=64, seed=1))


def chain(between: str, last: str, shape: str = "float[N, 4] y", **weights: np.ndarray) -> Model:
    return written(
        f"""net (float[N, 3, 8, 8] x) => ({shape}) {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            {between}
            {last}
        }}""",
        w1=normal(16, 3, 3, 3) * uneven(16).reshape(-1, 1, 1, 1),
        b1=normal(16) * uneven(16),
        **weights,
    )


IN_PROPORTION = 1 / uneven(16)
"""Weights in which the small channels tell as much as the large ones, so that losing them is a loss."""

POINTWISE = {"w2": normal(8, 16, 1, 1) * IN_PROPORTION.reshape(-1, 1, 1), "b2": normal(8)}
CHAINS = {
    "conv": chain("b = Relu (a)", "y = Conv (b, w2, b2)", "float[N, 8, 8, 8] y", **POINTWISE),
    "depthwise": chain("b = Relu (a)", "y = Conv <group = 16> (b, w2)", "float[N, 16, 6, 6] y", w2=normal(16, 1, 3, 3)),
    "pooling and a gemm": chain(
        "b = LeakyRelu (a)  c = GlobalAveragePool (b)  d = Flatten (c)",
        "y = Gemm (d, w2)",
        w2=normal(16, 4) * IN_PROPORTION[:, None],
    ),
    "two readers": chain(
        "b = Relu (a)",
        "c = Conv (b, w2)  d = Conv (b, w3)  y = Add (c, d)",
        "float[N, 8, 8, 8] y",
        w2=normal(8, 16, 1, 1),
        w3=normal(8, 16, 1, 1, seed=1),
    ),
    "a clip at zero alone": chain(
        "b = Clip (a, zero)", "y = Conv (b, w2)", "float[N, 8, 8, 8] y", zero=np.float32(0), w2=normal(8, 16, 1, 1)
    ),
    "matmul and a bias": written(
        """net (float[N, 5, 24] x) => (float[N, 5, 8] y) {
            a = MatMul (x, w1)  b = Add (b1, a)  c = Relu (b)  y = MatMul (c, w2)
        }""",
        w1=normal(24, 16) * uneven(16),
        b1=normal(16) * uneven(16),
        w2=normal(16, 8) * IN_PROPORTION[:, None],
    ),
}
REFUSED = {
    "relu6": chain(
        "b = Clip (a, zero, six)",
        "y = Conv (b, w2)",
        "float[N, 8, 8, 8] y",
        zero=np.float32(0),
        six=np.float32(6),
        w2=normal(8, 16, 1, 1),
    ),
    "a reader that is no product": chain(
        "b = Relu (a)",
        "c = Conv (b, w2)  d = Sigmoid (b)  e = Conv (d, w2)  y = Add (c, e)",
        "float[N, 8, 8, 8] y",
        w2=normal(8, 16, 1, 1),
    ),
    "an output of the graph": chain("y = Relu (a)", "", "float[N, 16, 8, 8] y"),
    "a residual sum": chain(
        "b = Relu (a)", "c = Conv (b, w2)  y = Add (c, b)", "float[N, 16, 8, 8] y", w2=normal(16, 16, 1, 1)
    ),
    "a convolution in groups": chain(
        "b = Relu (a)", "y = Conv <group = 4> (b, w2)", "float[N, 8, 8, 8] y", w2=normal(8, 4, 1, 1)
    ),
}


@pytest.mark.parametrize("model", CHAINS.values(), ids=list(CHAINS))
def test_outputs_stay_the_same(model: Model) -> None:
    result, inputs = Equalize().apply(model, calibration(model)), made_up_inputs(model, batch=8)
    assert result.changed
    assert result.notes[0] == "1 of 1 chains changed"
    assert relative_error(run(result.model, inputs)["y"], run(model, inputs)["y"]) < ROUNDING


@pytest.mark.parametrize("name", ["conv", "pooling and a gemm", "matmul and a bias"])
def test_int8_loses_less_after_it(name: str) -> None:
    model = CHAINS[name]
    data, inputs = calibration(model), made_up_inputs(model, batch=64, seed=2)
    wanted = run(model, inputs)["y"]
    before = Int8Static().apply(model, data).model
    after = Int8Static().apply(Equalize().apply(model, data).model, data).model
    # Unevenly scaled channels cost several bits; half of the error is gone at the very least.
    assert relative_error(run(after, inputs)["y"], wanted) < 0.5 * relative_error(run(before, inputs)["y"], wanted)


def test_a_depthwise_convolution_takes_up_all_of_it() -> None:
    model = CHAINS["depthwise"]
    after = Equalize().apply(model, calibration(model)).model
    weight = next(node for node in after.graph.graph if node.op_type == "Conv").inputs[1].const_value.numpy()
    sizes = np.abs(weight).max(axis=(1, 2, 3))
    assert sizes.max() / sizes.min() < 4  # a thousand before


@pytest.mark.parametrize("model", REFUSED.values(), ids=list(REFUSED))
def test_a_chain_that_a_factor_does_not_pass_stays_as_it_is(model: Model) -> None:
    assert not Equalize().apply(model, calibration(model)).changed


def test_a_relu6_in_the_way_is_told() -> None:
    model = REFUSED["relu6"]
    assert Equalize().apply(model, calibration(model)).notes == ("1 stopped by Clip",)


def test_a_weight_that_others_read_too_stays_as_it_was_for_them() -> None:
    model = written(
        """net (float[N, 16] x) => (float[N, 16] y, float[N, 16] z) {
            a = Gemm (x, w1)  b = Relu (a)  y = Gemm (b, w2)  c = Sigmoid (x)  z = Gemm (c, w2)
        }""",
        w1=normal(16, 16) * uneven(16),
        w2=normal(16, 16),
    )
    result, inputs = Equalize().apply(model, calibration(model)), made_up_inputs(model)
    assert result.changed
    wanted, found = run(model, inputs), run(result.model, inputs)
    assert all(relative_error(found[name], wanted[name]) < ROUNDING for name in wanted)


def test_channels_that_are_always_zero_do_no_harm() -> None:
    weight = normal(24, 16) * uneven(16)
    weight[:, 3] = 0
    model = written(
        "net (float[N, 24] x) => (float[N, 8] y) { a = MatMul (x, w1)  b = Relu (a)  y = MatMul (b, w2) }",
        w1=weight,
        w2=normal(16, 8),
    )
    result, inputs = Equalize().apply(model, calibration(model)), made_up_inputs(model)
    assert relative_error(run(result.model, inputs)["y"], run(model, inputs)["y"]) < ROUNDING
