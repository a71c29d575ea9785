"""Recurrent layers as ONNX's RNN, GRU and LSTM: sequences [Seq, Batch, size, 1, 1], states [1, Batch, size, 1, 1].

A reversed layer gives its outputs in the order in which it worked, the last element's first (so do coremltools' own
tests); the backward half of a bidirectional one gives them in the order of the sequence. The sums inside are limited
to 50 where an activation would show it; the state of an LSTM may pass a limit of 50 or more unlimited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.errors import UnsupportedOperators
from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network
from tightship.formats.neural_network.shaping import five_axes

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS", "RECURRENT"]

_LIMIT = 50.0
_BOUNDED = frozenset({"Sigmoid", "Tanh", "HardSigmoid", "ScaledTanh", "Softsign"})

_ACTIVATIONS = {
    "linear": ("Affine", ("alpha", "beta")),
    "ReLU": ("Relu", ()),
    "leakyReLU": ("LeakyRelu", ("alpha",)),
    "tanh": ("Tanh", ()),
    "scaledTanh": ("ScaledTanh", ("alpha", "beta")),
    "sigmoid": ("Sigmoid", ()),
    "sigmoidHard": ("HardSigmoid", ("alpha", "beta")),
    "ELU": ("Elu", ("alpha",)),
    "softsign": ("Softsign", ()),
    "softplus": ("Softplus", ()),
}

_UNSTATED = {"linear": [1.0, 0.0], "scaledTanh": [1.7159, 2 / 3], "sigmoidHard": [0.2, 0.5]}
"""Core ML has these numbers only in recurrent layers, and coremltools' builder leaves them out."""


def _simple(net: Network, layer: Layer) -> Sequence[onnx_ir.Value]:
    params = layer.params
    inner, outer = params.inputVectorSize, params.outputVectorSize
    weight = layer.weight("weightMatrix", [outer, inner])
    recursion = layer.weight("recursionMatrix", [outer, outer])
    bias = layer.weight("biasVector", [outer]) if params.hasBiasVector else np.zeros(outer, np.float32)
    tensors = [weight[None], recursion[None], _with_recursive(bias)[None]]
    how = _activations(layer, [params.activation])
    return _one_way(net, layer, "RNN", [net.constant(each) for each in tensors], how)


def _gru(net: Network, layer: Layer) -> Sequence[onnx_ir.Value]:
    """ONNX's order of gates is update, reset, output."""
    params = layer.params
    inner, outer = params.inputVectorSize, params.outputVectorSize
    gates = ("updateGate", "resetGate", "outputGate")
    weight = np.concatenate([layer.weight(f"{gate}WeightMatrix", [outer, inner]) for gate in gates])
    recursion = np.concatenate([layer.weight(f"{gate}RecursionMatrix", [outer, outer]) for gate in gates])
    bias = np.zeros(3 * outer, np.float32)
    if params.hasBiasVectors:
        bias = np.concatenate([layer.weight(f"{gate}BiasVector", [outer]) for gate in gates])
    tensors = [weight[None], recursion[None], _with_recursive(bias)[None]]
    how = _activations(layer, params.activations)
    return _one_way(net, layer, "GRU", [net.constant(each) for each in tensors], how)


def _lstm(net: Network, layer: Layer) -> Sequence[onnx_ir.Value]:
    params = layer.params
    tensors = _lstm_tensors(net, layer, [params.weightParams])
    return _one_way(net, layer, "LSTM", tensors, _lstm_attributes(layer, params.activations, 1))


def _bidirectional_lstm(net: Network, layer: Layer) -> Sequence[onnx_ir.Value]:
    """Outputs: the sequence with both halves' channels, then h and c forward, h and c backward."""
    params = layer.params
    if len(params.weightParams) != 2:
        raise layer.refuse(f"expected weights for two directions, found {len(params.weightParams)}")
    x, *states = layer.take(1, 5)
    tensors = _lstm_tensors(net, layer, params.weightParams)
    functions = [*params.activationsForwardLSTM, *(params.activationsBackwardLSTM or params.activationsForwardLSTM)]
    how = _lstm_attributes(layer, functions, 2)
    initial: list[onnx_ir.Value | None] = [None, None]
    if len(states) == 4:
        hidden, cell, hidden_back, cell_back = (_state(net, layer, value) for value in states)
        initial = [net.op("Concat", hidden, hidden_back, axis=0), net.op("Concat", cell, cell_back, axis=0)]
    y, hidden, cell = _run(net, layer, "LSTM", x, tensors, initial, how | {"direction": "bidirectional"})
    if params.params.sequenceOutput:
        both = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, -1])
    else:
        turned = net.op("Transpose", hidden, perm=[1, 0, 2])
        both = net.unsqueeze(net.reshape(turned, [0, -1]), 0)
    halves = [_row(net, value, way) for way in (0, 1) for value in (hidden, cell)]
    return [net.unsqueeze(value, 3, 4) for value in [both, *halves]][: layer.output_count]


def _one_way(
    net: Network, layer: Layer, kind: str, tensors: list[onnx_ir.Value | None], how: dict[str, Any]
) -> Sequence[onnx_ir.Value]:
    x, *states = layer.take(1, 3)
    backward = bool(layer.params.reverseInput)
    how |= {"direction": "reverse" if backward else "forward"}
    initial: list[onnx_ir.Value | None] = [_state(net, layer, value) for value in states]
    y, *last = _run(net, layer, kind, x, tensors, initial, how)
    whole = layer.params.params.sequenceOutput if kind == "LSTM" else layer.params.sequenceOutput
    result = net.squeeze(y, 1) if whole else last[0]
    if whole and backward:
        result = net.op("Slice", result, net.ints([-1]), net.ints([-(2**31)]), net.ints([0]), net.ints([-1]))
    return [net.unsqueeze(value, 3, 4) for value in (result, *last)][: layer.output_count]


def _run(
    net: Network,
    layer: Layer,
    kind: str,
    x: onnx_ir.Value,
    tensors: list[onnx_ir.Value | None],
    initial: list[onnx_ir.Value | None],
    how: dict[str, Any],
) -> tuple[onnx_ir.Value, ...]:
    weights, peepholes = tensors[:3], tensors[3:]
    initial = [*initial, None, None][: 2 if kind == "LSTM" else 1]
    sequence = net.squeeze(five_axes(net, layer, x), 3, 4)
    hidden_size = int(layer.params.outputVectorSize)
    inputs = [sequence, *weights, None, *initial, *peepholes]
    return net.ops(kind, *inputs, results=3 if kind == "LSTM" else 2, hidden_size=hidden_size, **how)


def _state(net: Network, layer: Layer, value: onnx_ir.Value) -> onnx_ir.Value:
    return net.squeeze(five_axes(net, layer, value), 3, 4)


def _row(net: Network, value: onnx_ir.Value, way: int) -> onnx_ir.Value:
    return net.op("Slice", value, net.ints([way]), net.ints([way + 1]), net.ints([0]))


# Weights


def _lstm_tensors(net: Network, layer: Layer, messages: Sequence[Any]) -> list[onnx_ir.Value | None]:
    """Return W, R, B and, where there are peepholes, P of all directions; gates in ONNX's order i, o, f, z."""
    ways = [_lstm_way(layer, message) for message in messages]
    stacked = [np.stack(part) for part in zip(*ways, strict=True)]
    return [net.constant(each) for each in (stacked if layer.params.params.hasPeepholeVectors else stacked[:3])]


def _lstm_way(layer: Layer, message: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    inner, outer, flags = layer.params.inputVectorSize, layer.params.outputVectorSize, layer.params.params
    gates = ("inputGate", "outputGate", "forgetGate", "blockInput")

    def joined(field: str, shape: list[int], names: Sequence[str] = gates) -> np.ndarray:
        return np.concatenate([layer.weight(f"{gate}{field}", shape, message=message) for gate in names])

    bias = joined("BiasVector", [outer]) if flags.hasBiasVectors else np.zeros(4 * outer, np.float32)
    if flags.forgetBias:
        bias[2 * outer : 3 * outer] += 1
    peepholes = joined("PeepholeVector", [outer], gates[:3]) if flags.hasPeepholeVectors else np.zeros(0, np.float32)
    return (
        joined("WeightMatrix", [outer, inner]),
        joined("RecursionMatrix", [outer, outer]),
        _with_recursive(bias),
        peepholes,
    )


def _with_recursive(bias: np.ndarray) -> np.ndarray:
    """ONNX has a second bias, on the recursion: zeros."""
    return np.concatenate([bias, np.zeros_like(bias)])


# Attributes


def _lstm_attributes(layer: Layer, functions: Sequence[Any], ways: int) -> dict[str, Any]:
    flags = layer.params.params
    if 0 < flags.cellClipThreshold < _LIMIT:
        raise UnsupportedOperators(
            f"layer {layer.name!r} ({layer.kind}): a cell state limited to {flags.cellClipThreshold:g} has no "
            "counterpart in ONNX"
        )
    if len(functions) != 3 * ways:
        raise layer.refuse(f"expected {3 * ways} activations, found {len(functions)}")
    return _activations(layer, functions) | ({"input_forget": 1} if flags.coupledInputAndForgetGate else {})


def _activations(layer: Layer, functions: Sequence[Any]) -> dict[str, Any]:
    names: list[str] = []
    numbers: dict[str, list[float]] = {"alpha": [], "beta": []}
    for function in functions:
        kind = function.WhichOneof("NonlinearityType")
        if kind not in _ACTIVATIONS:
            raise layer.refuse(f"expected an activation of {', '.join(_ACTIVATIONS)}, found {kind}")
        name, fields = _ACTIVATIONS[kind]
        names.append(name)
        stated = [float(getattr(getattr(function, kind), field)) for field in fields]
        for field, number in zip(fields, stated if any(stated) else _UNSTATED.get(kind, stated), strict=True):
            numbers[field].append(number)
    return {
        "activations": names,
        "activation_alpha": numbers["alpha"] or None,
        "activation_beta": numbers["beta"] or None,
        "clip": None if set(names) <= _BOUNDED else _LIMIT,
    }


LAYERS: dict[str, Build] = {
    "simpleRecurrent": _simple,
    "gru": _gru,
    "uniDirectionalLSTM": _lstm,
    "biDirectionalLSTM": _bidirectional_lstm,
}

RECURRENT = frozenset(LAYERS)
"""The layers that run along the sequence axis of their first input."""
