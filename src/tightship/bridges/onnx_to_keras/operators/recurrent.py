"""Recurrent layers: Keras' own where it has the same cell, else the steps written out.

ONNX: X `[time, batch, in]`, W `[directions, gates * units, in]`, Y `[time, directions, batch, units]`. Gates lie in the
order i, o, f, c in ONNX's LSTM and i, f, c, o in Keras'; z, r, h in both GRUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import arrange, like, plain
from tightship.bridges.onnx_to_keras.operators.steps import CELLS, Cell, activation_of, unrolled
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported

op = OPERATORS.op

Operand = Tensor | np.ndarray

_BATCH_FIRST = (1, 0, 2)
_NAMES = {"Tanh": "tanh", "Sigmoid": "sigmoid", "Relu": "relu", "HardSigmoid": "hard_sigmoid", "Softsign": "softsign"}


@dataclass(frozen=True)
class Recurrence:
    """A node with its inputs; states are None where they are zero."""

    kind: str
    x: Tensor
    w: np.ndarray
    r: np.ndarray
    b: np.ndarray
    lengths: Operand | None
    states: tuple[Operand | None, ...]
    peepholes: np.ndarray | None
    units: int
    direction: str
    activations: tuple[str, ...]
    parameters: tuple[tuple[float, float], ...]
    clip: float | None
    linear_before_reset: int = 0
    input_forget: int = 0
    layout: int = 0

    @property
    def directions(self) -> tuple[bool, ...]:
        """Whether each direction goes backwards."""
        return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[self.direction]

    @property
    def n_activations(self) -> int:
        return len(self.activations) // len(self.directions)


def _constant(value: Operand | None, what: str) -> np.ndarray | None:
    if isinstance(value, Tensor):
        raise Unsupported(f"its {what} are computed from data")
    return value


def _recurrence(
    kind: str,
    operands: Sequence[Operand | None],
    attributes: dict[str, Any],
    defaults: Sequence[str],
) -> Recurrence:
    x, w, r, b, lengths, *states = operands
    weights, recurrent = _constant(w, "weights"), _constant(r, "weights")
    bias = _constant(b, "biases")
    if weights is None or recurrent is None or not isinstance(x, Tensor):
        raise Unsupported("its weights or inputs are missing")
    directions = weights.shape[0]
    units = recurrent.shape[-1]
    bias = np.zeros((directions, 2 * weights.shape[1]), weights.dtype) if bias is None else bias
    given = tuple(attributes["activations"] or ())[: len(defaults) * directions]
    names = given or tuple(defaults) * directions
    peepholes = _constant(states.pop(), "peepholes") if kind == "LSTM" and len(states) > 2 else None
    return Recurrence(
        kind,
        Tensor(x.value, tuple(x.axes[axis] for axis in _BATCH_FIRST), x.arranged) if attributes["layout"] else x,
        weights,
        recurrent,
        bias,
        lengths,
        tuple(_time_major(state, attributes["layout"]) for state in states),
        peepholes,
        units,
        attributes["direction"],
        names,
        _parameters(names, attributes),
        attributes.get("clip"),
        attributes.get("linear_before_reset", 0),
        attributes.get("input_forget", 0),
        attributes["layout"],
    )


def _parameters(names: Sequence[str], attributes: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    """alpha and beta of each activation: those of the node go to the activations that take one, in order."""
    defaults = {"Affine": (1.0, 0.0), "LeakyRelu": (0.01, 0.0), "ThresholdedRelu": (1.0, 0.0), "Elu": (1.0, 0.0)}
    defaults |= {"HardSigmoid": (0.2, 0.5), "ScaledTanh": (1.0, 1.0)}
    alphas, betas = iter(attributes.get("activation_alpha") or ()), iter(attributes.get("activation_beta") or ())
    found = []
    for name in names:
        alpha, beta = defaults.get(name, (0.0, 0.0))
        alpha = next(alphas, alpha) if name in defaults else alpha
        beta = next(betas, beta) if name in ("Affine", "HardSigmoid", "ScaledTanh") else beta
        found.append((float(alpha), float(beta)))
    return tuple(found)


def _time_major(state: Operand | None, layout: int) -> Operand | None:
    """States as `[directions, batch, units]`."""
    if state is None or not layout:
        return state
    if isinstance(state, np.ndarray):
        return state.transpose(1, 0, 2)
    return Tensor(state.value, tuple(state.axes[axis] for axis in _BATCH_FIRST), state.arranged)


def _direction(node: Recurrence, index: int, build: Build) -> list[Any]:
    """Return `[batch, time, units]` in the order of time, and the last states `[batch, units]`, of one direction."""
    backwards = node.directions[index]
    x = arrange(node.x, _BATCH_FIRST)
    states = [_state(state, index, build) for state in node.states]
    suffix = "" if len(node.directions) == 1 else ("_forward", "_backward")[index]
    weights = _native_weights(node, index)
    if weights is None:
        cell = _cell(node, index)
        return unrolled(cell, x, states, node.lengths, backwards, build)
    config = _config(node, index)
    layer_type = {"LSTM": layers.LSTM, "GRU": layers.GRU, "RNN": layers.SimpleRNN}[node.kind]
    given = [state for state in states if state is not None]
    if given:
        full = [state if state is not None else ops.zeros_like(given[0]) for state in states]
        layer = layer_type(
            name=build.ground.names.new(build.name + suffix), dtype=str(x.dtype), go_backwards=backwards, **config
        )
        results = layer(x, initial_state=full)
        layer.set_weights(weights)
    else:
        results = build.layer(layer_type, x, weights, suffix=suffix, go_backwards=backwards, **config)
    sequence, *last = results
    return [ops.flip(sequence, axis=1) if backwards else sequence, *last]


def _state(state: Operand | None, index: int, build: Build) -> Any:
    if state is None or (isinstance(state, np.ndarray) and not state.any()):
        return None
    return plain(build.tensor(state))[index]


def _config(node: Recurrence, index: int) -> dict[str, Any]:
    count = node.n_activations
    names = [_NAMES[name] for name in node.activations[index * count : (index + 1) * count]]
    config: dict[str, Any] = {"units": node.units, "return_sequences": True, "return_state": True}
    if node.kind == "RNN":
        return {**config, "activation": names[0]}
    config |= {"recurrent_activation": names[0], "activation": names[1]}
    return {**config, "reset_after": bool(node.linear_before_reset)} if node.kind == "GRU" else config


def _native_weights(node: Recurrence, index: int) -> list[np.ndarray] | None:
    """Weights of Keras' layer, or None where its cell is not the node's."""
    count = node.n_activations
    names = node.activations[index * count : (index + 1) * count]
    odd = node.lengths is not None or node.peepholes is not None or node.clip is not None or node.input_forget
    hard = any(
        name == "HardSigmoid" and (abs(alpha - 1 / 6) > 1e-6 or beta != 0.5)
        for name, (alpha, beta) in zip(node.activations, node.parameters, strict=True)
    )
    if odd or hard or any(name not in _NAMES for name in names) or (node.kind == "LSTM" and names[1] != names[2]):
        return None
    order = {"LSTM": (0, 2, 3, 1), "GRU": (0, 1, 2), "RNN": (0,)}[node.kind]

    def gates(matrix: np.ndarray) -> np.ndarray:
        return np.concatenate([np.split(matrix, len(order))[gate] for gate in order])

    inner, recurrent = np.split(node.b[index], 2)
    bias = np.stack([gates(inner), gates(recurrent)]) if node.linear_before_reset else gates(inner + recurrent)
    return [gates(node.w[index]).T, gates(node.r[index]).T, bias]


def _cell(node: Recurrence, index: int) -> Cell:
    count = node.n_activations
    part = slice(index * count, (index + 1) * count)
    functions = tuple(
        activation_of(name, *parameters)
        for name, parameters in zip(node.activations[part], node.parameters[part], strict=True)
    )
    peepholes = None if node.peepholes is None else node.peepholes[index]
    return CELLS[node.kind](
        node.w[index],
        node.r[index],
        node.b[index],
        functions,
        node.clip,
        peepholes,
        bool(node.linear_before_reset),
        bool(node.input_forget),
    )


def _outputs(node: Recurrence, build: Build) -> tuple[Tensor, ...]:
    """Y `[time, directions, batch, units]` and the last states `[directions, batch, units]`."""
    results = [_direction(node, index, build) for index in range(len(node.directions))]
    sequences, *states = zip(*results, strict=True)
    if len(sequences) == 1:
        y = Tensor(ops.expand_dims(sequences[0], 2), (1, 2, 0, 3))
        last = [Tensor(ops.expand_dims(state[0], 0), (0, 1, 2)) for state in states]
    else:
        y = Tensor(ops.stack(sequences, axis=2), (1, 2, 0, 3))
        last = [like(ops.stack(state, axis=0)) for state in states]
    if node.layout:
        y = Tensor(y.value, tuple(y.axes[axis] for axis in (2, 0, 1, 3)))
        last = [Tensor(state.value, tuple(state.axes[axis] for axis in _BATCH_FIRST)) for state in last]
    return (y, *last)


@op("LSTM", since=7)
def lstm(
    x: Tensor,
    w: Operand,
    r: Operand,
    b: Operand | None = None,
    sequence_lens: Operand | None = None,
    initial_h: Operand | None = None,
    initial_c: Operand | None = None,
    p: Operand | None = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    build: Build,
) -> tuple[Tensor, ...]:
    attributes = {
        "activation_alpha": activation_alpha,
        "activation_beta": activation_beta,
        "activations": activations,
        "clip": clip,
        "direction": direction,
        "input_forget": input_forget,
        "layout": layout,
    }
    operands = (x, w, r, b, sequence_lens, initial_h, initial_c, p)
    return _outputs(_recurrence("LSTM", operands, attributes, ("Sigmoid", "Tanh", "Tanh")), build)


@op("GRU", since=7)
def gru(
    x: Tensor,
    w: Operand,
    r: Operand,
    b: Operand | None = None,
    sequence_lens: Operand | None = None,
    initial_h: Operand | None = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    build: Build,
) -> tuple[Tensor, ...]:
    attributes = {
        "activation_alpha": activation_alpha,
        "activation_beta": activation_beta,
        "activations": activations,
        "clip": clip,
        "direction": direction,
        "linear_before_reset": linear_before_reset,
        "layout": layout,
    }
    operands = (x, w, r, b, sequence_lens, initial_h)
    return _outputs(_recurrence("GRU", operands, attributes, ("Sigmoid", "Tanh")), build)


@op("RNN", since=7)
def rnn(
    x: Tensor,
    w: Operand,
    r: Operand,
    b: Operand | None = None,
    sequence_lens: Operand | None = None,
    initial_h: Operand | None = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: Sequence[str] = ("Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    build: Build,
) -> tuple[Tensor, ...]:
    attributes = {
        "activation_alpha": activation_alpha,
        "activation_beta": activation_beta,
        "activations": activations,
        "clip": clip,
        "direction": direction,
        "layout": layout,
    }
    operands = (x, w, r, b, sequence_lens, initial_h)
    return _outputs(_recurrence("RNN", operands, attributes, ("Tanh",)), build)
