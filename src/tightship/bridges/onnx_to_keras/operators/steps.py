"""Recurrent cells that Keras has no layer for, step by step: peepholes, clipping, other activations, own lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import part, plain
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported

__all__ = ["CELLS", "Cell", "activation_of", "unrolled"]

_MOST_STEPS = 256
"""Longer series would make a model of many thousand operations."""

Activation = Callable[[Any], Any]


@dataclass(frozen=True)
class Cell:
    """One direction of a recurrent node; `w` is `[gates * units, in]`, `r` `[gates * units, units]`."""

    w: np.ndarray
    r: np.ndarray
    b: np.ndarray
    activations: tuple[Activation, ...]
    clip: float | None = None
    peepholes: np.ndarray | None = None
    linear_before_reset: bool = False
    input_forget: bool = False

    n_states = 1

    @property
    def units(self) -> int:
        return int(self.r.shape[1])

    def biases(self) -> tuple[np.ndarray, np.ndarray]:
        inner, recurrent = np.split(self.b, 2)
        return inner, recurrent

    def clipped(self, value: Any) -> Any:
        return value if self.clip is None else ops.clip(value, -self.clip, self.clip)

    def step(self, projected: Any, states: Sequence[Any], recurrent: Any, build: Build) -> list[Any]:
        """Return the new states; the first is the output. `projected` is W x + Wb, all gates."""
        raise NotImplementedError

    def split(self, value: Any, count: int) -> list[Any]:
        return [part(value, -1, slice(gate * self.units, (gate + 1) * self.units)) for gate in range(count)]


@dataclass(frozen=True)
class RnnCell(Cell):
    def step(self, projected: Any, states: Sequence[Any], recurrent: Any, build: Build) -> list[Any]:
        _, bias = self.biases()
        total = plus(plus(projected, ops.matmul(states[0], recurrent)), bias)
        return [self.activations[0](self.clipped(total))]


@dataclass(frozen=True)
class GruCell(Cell):
    def step(self, projected: Any, states: Sequence[Any], recurrent: Any, build: Build) -> list[Any]:
        (hidden,) = states
        _, bias = self.biases()
        z_in, r_in, h_in = self.split(projected, 3)
        z_add, r_add, h_add = self.split(plus(ops.matmul(hidden, recurrent), bias), 3)
        update = self.activations[0](self.clipped(plus(z_in, z_add)))
        reset = self.activations[0](self.clipped(plus(r_in, r_add)))
        if self.linear_before_reset:
            inner = ops.multiply(reset, h_add)
        else:
            weights = recurrent[:, 2 * self.units :]
            inner = plus(ops.matmul(ops.multiply(reset, hidden), weights), bias[2 * self.units :])
        candidate = self.activations[1](self.clipped(plus(h_in, inner)))
        return [plus(ops.multiply(ops.subtract(1.0, update), candidate), ops.multiply(update, hidden))]


@dataclass(frozen=True)
class LstmCell(Cell):
    n_states = 2

    def step(self, projected: Any, states: Sequence[Any], recurrent: Any, build: Build) -> list[Any]:
        hidden, memory = states
        _, bias = self.biases()
        total = plus(plus(projected, ops.matmul(hidden, recurrent)), bias)
        i, o, f, c = self.split(total, 4)
        gate, inner, outer = self.activations
        p_i, p_o, p_f = [0.0] * 3 if self.peepholes is None else np.split(self.peepholes, 3)
        peeps = self.peepholes is not None
        entry = gate(self.clipped(plus(i, ops.multiply(memory, p_i)) if peeps else i))
        forget = gate(self.clipped(plus(f, ops.multiply(memory, p_f)) if peeps else f))
        forget = ops.subtract(1.0, entry) if self.input_forget else forget
        memory = plus(ops.multiply(forget, memory), ops.multiply(entry, inner(self.clipped(c))))
        exit_gate = gate(self.clipped(plus(o, ops.multiply(memory, p_o)) if peeps else o))
        return [ops.multiply(exit_gate, outer(memory)), memory]


CELLS: dict[str, type[Cell]] = {"RNN": RnnCell, "GRU": GruCell, "LSTM": LstmCell}


def activation_of(name: str, alpha: float, beta: float) -> Activation:
    """Return one of the activations that ONNX lists for recurrent operators."""
    known: dict[str, Activation] = {
        "Relu": ops.relu,
        "Tanh": ops.tanh,
        "Sigmoid": ops.sigmoid,
        "Softsign": ops.softsign,
        "Softplus": ops.softplus,
        "Affine": lambda x: plus(ops.multiply(x, alpha), beta),
        "LeakyRelu": lambda x: ops.leaky_relu(x, alpha),
        "ThresholdedRelu": lambda x: ops.multiply(x, ops.cast(ops.greater_equal(x, alpha), str(x.dtype))),
        "ScaledTanh": lambda x: ops.multiply(ops.tanh(ops.multiply(x, beta)), alpha),
        "HardSigmoid": lambda x: ops.clip(plus(ops.multiply(x, alpha), beta), 0.0, 1.0),
        "Elu": lambda x: ops.elu(x, alpha),
    }
    if name not in known:
        raise Unsupported(f"its activation {name!r} is not known")
    return known[name]


def unrolled(
    cell: Cell, x: Any, states: Sequence[Any], lengths: Tensor | np.ndarray | None, backwards: bool, build: Build
) -> list[Any]:
    """Run a cell over `x` `[batch, time, in]`; return `[batch, time, units]` in the order of time, and the last states.

    Past the length of an item its outputs are zero and its states stay.
    """
    count = x.shape[1]
    if count is None or count > _MOST_STEPS:
        raise Unsupported(f"a cell that Keras has no layer for, over {count or 'a free number of'} steps")
    inner, _ = cell.biases()
    projected = plus(ops.matmul(x, build.constant(np.ascontiguousarray(cell.w.T))), build.constant(inner))
    recurrent = build.constant(np.ascontiguousarray(cell.r.T))
    zero = ops.multiply(projected[:, 0, : cell.units], 0.0)
    current = [zero if state is None else state for state in states]
    ends = None if lengths is None else ops.expand_dims(ops.cast(_plain(lengths, build), "int32"), -1)
    outputs: list[Any] = [None] * count
    for place in reversed(range(count)) if backwards else range(count):
        new = cell.step(projected[:, place], current, recurrent, build)
        if ends is None:
            outputs[place], current = new[0], new
            continue
        inside = ops.greater(ends, place)
        outputs[place] = ops.where(inside, new[0], zero)
        current = [ops.where(inside, fresh, old) for fresh, old in zip(new, current, strict=True)]
    return [ops.stack(outputs, axis=1), *current]


def _plain(lengths: Tensor | np.ndarray, build: Build) -> Any:
    return plain(build.tensor(lengths))
