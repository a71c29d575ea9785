"""Recurrent layers over [steps, items, features].

MIL orders the gates of an LSTM input, forget, output, cell, and ONNX input, output, forget, cell; those of a GRU reset,
output, update, and ONNX update, reset, output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op

_ACTIVATIONS = {
    "tanh": ("Tanh", 0.0, 0.0),
    "scaled_tanh": ("Tanh", 0.0, 0.0),  # both of its factors are 1
    "sigmoid": ("Sigmoid", 0.0, 0.0),
    "hard_sigmoid": ("HardSigmoid", 0.2, 0.5),
    "sigmoid_hard": ("HardSigmoid", 0.2, 0.5),
    "relu": ("Relu", 0.0, 0.0),
    "linear": ("Affine", 1.0, 0.0),
}
_DIRECTIONS = ("forward", "reverse", "bidirectional")

Array = np.ndarray[Any, np.dtype[Any]]


def _ordered(weights: Array, order: Sequence[int]) -> Array:
    gates = np.split(weights, len(order))
    return np.concatenate([gates[place] for place in order])


def _activations(names: Sequence[str], directions: int) -> dict[str, Any]:
    unknown = [name for name in names if name.lower() not in _ACTIVATIONS]
    if unknown:
        raise Unsupported(f"activation {', '.join(unknown)}")
    found = [_ACTIVATIONS[name.lower()] for name in names] * directions
    kinds, alphas, betas = zip(*found, strict=True)
    given = {"activations": list(kinds)}
    if any(alphas):
        given |= {"activation_alpha": list(alphas), "activation_beta": list(betas)}
    return given


def _states(value: Any, size: int, directions: int, build: Build) -> Any:
    """[items, directions * size] as ONNX has it: [directions, items, size]."""
    if directions == 1:
        return build.unsqueeze(value, [0])
    return build.transpose(build.reshape(value, [-1, directions, size]), [1, 0, 2])


def _flat(value: Any, size: int, directions: int, build: Build) -> Any:
    if directions == 1:
        return build.squeeze(value, [0])
    return build.reshape(build.transpose(value, [1, 0, 2]), [-1, directions * size])


def _steps(every: Any, last: Any, size: int, direction: str, whole: bool, build: Build) -> Any:
    """All steps, [steps, items, directions * size], or the last states alone as one step.

    MIL gives the steps of a reversed layer in the order in which it works, ONNX in that of its input.
    """
    if not whole:
        return build.unsqueeze(last, [0])
    if direction != "bidirectional":
        steps = build.squeeze(every, [1])
        ends = (np.array([number], np.int64) for number in (-1, np.iinfo(np.int64).min, 0, -1))
        return build("Slice", steps, *ends) if direction == "reverse" else steps
    turned = build.transpose(every, [0, 2, 1, 3])
    return build("Reshape", turned, np.array([0, 0, 2 * size], np.int64))


def _layer(
    kind: str,
    x: Operand,
    weights: Sequence[Any],
    states: Sequence[Any],
    size: int,
    directions: int,
    build: Build,
    **attributes: Any,
) -> tuple[Any, ...]:
    return build.several(
        kind, 1 + len(states), x, *weights[:3], None, *states, *weights[3:], hidden_size=size, **attributes
    )


@op("lstm", since=15)
def lstm(
    x: Operand,
    initial_h: Operand,
    initial_c: Operand,
    *,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    peephole: Array | None = None,
    weight_ih_back: Array | None = None,
    weight_hh_back: Array | None = None,
    bias_back: Array | None = None,
    peephole_back: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
    build: Build,
) -> Any:
    if clip is not None:
        raise Unsupported("its cell is clipped, which ONNX's LSTM does to what goes into the gates instead")
    if direction not in _DIRECTIONS:
        raise Unsupported(f"direction {direction}")
    both = direction == "bidirectional"
    sides = [(weight_ih, weight_hh, bias, peephole)]
    if both:
        if weight_ih_back is None or weight_hh_back is None:
            raise Unsupported("the weights of one direction are missing")
        sides.append((weight_ih_back, weight_hh_back, bias_back, peephole_back))
    size, directions = weight_hh.shape[1], len(sides)
    every, hidden, cell = _layer(
        "LSTM",
        x,
        _lstm_weights(sides, size),
        [_states(state, size, directions, build) for state in (initial_h, initial_c)],
        size,
        directions,
        build,
        direction=direction,
        **_activations((recurrent_activation, cell_activation, activation), directions),
    )
    last = _flat(hidden, size, directions, build)
    steps = _steps(every, last, size, direction, output_sequence, build)
    return steps, last, _flat(cell, size, directions, build)


def _lstm_weights(sides: Sequence[tuple[Any, ...]], size: int) -> list[Any]:
    order = (0, 2, 1, 3)
    given = np.stack([_ordered(side[0], order) for side in sides])
    recurrent = np.stack([_ordered(side[1], order) for side in sides])
    biases = [np.zeros(4 * size, np.float32) if side[2] is None else _ordered(side[2], order) for side in sides]
    bias = np.stack([np.concatenate([entry, np.zeros_like(entry)]) for entry in biases])
    if all(side[3] is None for side in sides):
        return [given, recurrent, bias]
    holes = [np.zeros(3 * size, np.float32) if side[3] is None else _ordered(side[3], (0, 2, 1)) for side in sides]
    return [given, recurrent, bias, np.stack(holes)]


@op("gru", since=15)
def gru(
    x: Operand,
    initial_h: Operand,
    *,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Array | None = None,
    build: Build,
) -> Any:
    """The reset gate comes before the recurrent product, or after it (iOS 18), which then has a bias of its own."""
    if direction not in _DIRECTIONS[:2]:
        raise Unsupported(f"direction {direction}")
    size = weight_hh.shape[1]
    none = np.zeros(3 * size, np.float32)
    given, recurrent = (input_bias, bias) if reset_after else (bias, input_bias)
    order = (2, 0, 1)
    biases = [_ordered(none if entry is None else entry, order) for entry in (given, recurrent)]
    weights = [_ordered(entry, order)[None] for entry in (weight_ih, weight_hh)]
    every, hidden = _layer(
        "GRU",
        x,
        [*weights, np.concatenate(biases)[None]],
        [_states(initial_h, size, 1, build)],
        size,
        1,
        build,
        direction=direction,
        linear_before_reset=int(reset_after),
        **_activations((recurrent_activation, activation), 1),
    )
    last = _flat(hidden, size, 1, build)
    return _steps(every, last, size, direction, output_sequence, build), last


@op("rnn", since=15)
def rnn(
    x: Operand,
    initial_h: Operand,
    *,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
    build: Build,
) -> Any:
    if direction not in _DIRECTIONS[:2]:
        raise Unsupported(f"direction {direction}")
    size = weight_hh.shape[1]
    given = np.zeros(size, np.float32) if bias is None else bias
    every, hidden = _layer(
        "RNN",
        x,
        [weight_ih[None], weight_hh[None], np.concatenate([given, np.zeros_like(given)])[None]],
        [_states(initial_h, size, 1, build)],
        size,
        1,
        build,
        direction=direction,
        **_activations((activation,), 1),
    )
    last = _flat(hidden, size, 1, build)
    return _steps(every, last, size, direction, output_sequence, build), last
