"""Recurrent layers against the equations of the format's documentation, written out in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coremltools.models.neural_network import NeuralNetworkBuilder

from tests.formats.neural_network_cases import assert_close, build, normal, run
from tightship.errors import UnsupportedOperators
from tightship.formats.neural_network import read_neural_network

STEPS, BATCH, INNER, OUTER = 5, 2, 3, 4
X = normal(STEPS, BATCH, INNER, 1, 1)
H, C = normal(1, BATCH, OUTER, 1, 1, seed=1), normal(1, BATCH, OUTER, 1, 1, seed=2)
WX = [normal(OUTER, INNER, seed=seed) for seed in range(3, 7)]
WH = [normal(OUTER, OUTER, seed=seed) for seed in range(7, 11)]
B = [normal(OUTER, seed=seed) for seed in range(11, 15)]
PEEP = [normal(OUTER, seed=seed) for seed in range(15, 18)]
BACK = {"W_h_back": WH[::-1], "W_x_back": WX[::-1], "b_back": B[::-1]}
SHAPES = {"x": X.shape, "h": H.shape, "c": C.shape}
FEEDS = {"x": X, "h": H, "c": C}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def over_time(
    step: Callable[..., tuple[np.ndarray, ...]], states: list[np.ndarray], x: np.ndarray = X
) -> list[np.ndarray]:
    """Return all outputs [Seq, Batch, size] and the last states [1, Batch, size]."""
    held = [state[0, :, :, 0, 0] for state in states]
    outputs = []
    for each in x[:, :, :, 0, 0]:
        held = list(step(each, *held))
        outputs.append(held[0])
    return [np.stack(outputs), *(state[None] for state in held)]


def axes(*values: np.ndarray) -> list[np.ndarray]:
    return [value[..., None, None] for value in values]


def lstm_step(
    wx: list[np.ndarray] = WX,
    wh: list[np.ndarray] = WH,
    b: list[np.ndarray] = B,
    peep: Any = None,
    coupled: bool = False,
) -> Any:
    """Gates in the builder's order: input, forget, output, block input."""
    p = peep or [np.zeros(OUTER)] * 3

    def step(x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        i, f, o, z = (x @ u.T + h @ w.T + bias for u, w, bias in zip(wx, wh, b, strict=True))
        i, f = sigmoid(i + p[0] * c), sigmoid(f + p[1] * c)
        new = c * ((1 - i) if coupled else f) + i * np.tanh(z)
        return np.tanh(new) * sigmoid(o + p[2] * new), new

    return step


def check(add: Callable[[NeuralNetworkBuilder], object], expected: list[np.ndarray], count: int = 3) -> None:
    found = run(build(SHAPES, add, len(expected)), FEEDS)
    for array, wanted in zip(found.values(), expected, strict=True):
        assert_close(array, wanted)
    assert len(expected) == count


def lstm(b: NeuralNetworkBuilder, **options: Any) -> None:
    b.add_unilstm("l", WH, WX, B, OUTER, INNER, ["x", "h", "c"], ["y", "y1", "y2"], **options)


def test_an_lstm_gives_its_sequence_and_both_states() -> None:
    check(lambda b: lstm(b, output_all=True), axes(*over_time(lstm_step(), [H, C])))


def test_an_lstm_gives_the_last_output_only() -> None:
    y, h, c = over_time(lstm_step(), [H, C])
    check(lstm, axes(y[-1:], h, c))


def test_a_reversed_lstm_gives_outputs_in_the_order_of_its_work() -> None:
    check(lambda b: lstm(b, output_all=True, reverse_input=True), axes(*over_time(lstm_step(), [H, C], X[::-1])))


def test_an_lstm_has_peepholes() -> None:
    check(lambda b: lstm(b, output_all=True, peep=PEEP), axes(*over_time(lstm_step(peep=PEEP), [H, C])))


def test_an_lstm_couples_input_and_forget_gate() -> None:
    expected = over_time(lstm_step(coupled=True), [H, C])
    check(lambda b: lstm(b, output_all=True, coupled_input_forget_gate=True), axes(*expected))


def test_the_forget_bias_adds_one() -> None:
    biased = [B[0], B[1] + 1, *B[2:]]
    check(lambda b: lstm(b, output_all=True, forget_bias=True), axes(*over_time(lstm_step(b=biased), [H, C])))


@pytest.mark.parametrize("whole", [True, False])
def test_a_bidirectional_lstm_joins_both_ways(whole: bool) -> None:
    states = {f"{name}{way}": shape for way in ("", "_back") for name, shape in (("h", H.shape), ("c", C.shape))}

    def add(b: NeuralNetworkBuilder) -> None:
        names = ["y", "y1", "y2", "y3", "y4"]
        b.add_bidirlstm(
            "l",
            WH,
            WX,
            B,
            hidden_size=OUTER,
            input_size=INNER,
            input_names=["x", *states],
            output_names=names,
            output_all=whole,
            **BACK,
        )

    found = list(run(build({"x": X.shape, **states}, add, 5), {**FEEDS, "h_back": C, "c_back": H}).values())
    y, h, c = over_time(lstm_step(), [H, C])
    back, h_back, c_back = over_time(lstm_step(WX[::-1], WH[::-1], B[::-1]), [C, H], X[::-1])
    joined = np.concatenate([y, back[::-1]], 2) if whole else np.concatenate([y[-1:], back[-1:]], 2)
    for array, expected in zip(found, axes(joined, h, c, h_back, c_back), strict=True):
        assert_close(array, expected)


@pytest.mark.parametrize("backward", [False, True])
def test_a_gru_resets_before_the_recursion(backward: bool) -> None:
    def step(x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray]:
        z, r = (sigmoid(x @ WX[k].T + h @ WH[k].T + B[k]) for k in (0, 1))
        return ((1 - z) * np.tanh(x @ WX[2].T + (h * r) @ WH[2].T + B[2]) + z * h,)

    def add(b: NeuralNetworkBuilder) -> None:
        b.add_gru(
            "l",
            WH[:3],
            WX[:3],
            B[:3],
            OUTER,
            INNER,
            ["x", "h"],
            ["y", "y1"],
            inner_activation="SIGMOID",
            output_all=True,
            reverse_input=backward,
        )

    check(add, axes(*over_time(step, [H], X[::-1] if backward else X)), 2)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("TANH", np.tanh),
        ("RELU", lambda x: np.clip(x, 0, 50)),
        ("SIGMOID_HARD", lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
        ("SCALED_TANH", lambda x: 1.7159 * np.tanh(x * 2 / 3)),
        ("LINEAR", lambda x: np.clip(x, -50, 50)),
    ],
)
def test_a_simple_recurrent_layer_limits_its_sums_to_fifty(name: str, function: Callable[..., np.ndarray]) -> None:
    large = X * 30
    step = lambda x, h: (function(x @ WX[0].T + h @ WH[0].T + B[0]),)  # noqa: E731

    def add(b: NeuralNetworkBuilder) -> None:
        b.add_simple_rnn("l", WH[0], WX[0], B[0], OUTER, INNER, name, ["x", "h"], ["y", "y1"], output_all=True)

    found = run(build(SHAPES, add, 2), {**FEEDS, "x": large})
    for array, wanted in zip(found.values(), axes(*over_time(step, [H], large)), strict=True):
        assert_close(array, wanted)


def test_a_sequence_of_an_older_spec_is_an_axis_of_the_input() -> None:
    def add(b: NeuralNetworkBuilder) -> None:
        b.add_unilstm("l", WH, WX, B, OUTER, INNER, ["x", "h", "c"], ["y", "y1", "y2"], output_all=True)

    spec = build({"x": (INNER,), "h": (OUTER,), "c": (OUTER,)}, add, 3, old=True)
    feeds = {"x": X[:, :1], "h": H[0, 0, :, 0, 0], "c": C[0, 0, :, 0, 0]}
    model = read_neural_network(spec, "net.mlmodel")
    assert [list(value.shape) for value in model.graph.inputs][1:] == [[OUTER], [OUTER]]
    assert [str(size) for size in model.graph.inputs[0].shape] == ["sequence", "1", str(INNER), "1", "1"]
    y, h, c = over_time(lstm_step(), [H[:, :1], C[:, :1]], X[:, :1])
    found = run(spec, feeds)
    assert_close(found["y"], y[..., None, None])
    assert_close(found["y1"], h[0, 0])
    assert_close(found["y2"], c[0, 0])


def test_a_narrow_limit_of_the_cell_state_is_refused_by_name() -> None:
    spec = build(SHAPES, lambda b: lstm(b, cell_clip_threshold=3.0), 3)
    with pytest.raises(UnsupportedOperators, match=r"net.mlmodel: layer 'l' \(uniDirectionalLSTM\): .* limited to 3"):
        read_neural_network(spec, "net.mlmodel")
