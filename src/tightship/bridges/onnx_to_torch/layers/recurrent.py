"""Recurrent networks with constant weights, the usual activations and no lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tightship.bridges.onnx_to_torch.layers.layer import Call, Layer, layer
from tightship.bridges.onnx_to_torch.operators.recurrent import lstm_outputs, rnn_outputs

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where torch's gates are among ONNX's: LSTM i o f c -> i f g o; GRU z r h -> r z n."""

_USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@layer("LSTM")
def lstm(call: Call) -> Layer | None:
    if not _usual(call) or call.has(7) or call.attributes["input_forget"] or call.has(5) != call.has(6):
        return None
    module = _weighted(nn.LSTM, call)
    after = (lstm_outputs, (2 if module.bidirectional else 1,))
    if not call.has(5):
        return Layer(module, after=after, several=True)
    return Layer(module, (0, 5, 6), after=after, arguments=lambda x, h, c: (x, (h, c)), several=True)


@layer("GRU")
def gru(call: Call) -> Layer | None:
    if not _usual(call) or not call.attributes["linear_before_reset"]:
        return None
    return _simple(call, _weighted(nn.GRU, call))


@layer("RNN")
def rnn(call: Call) -> Layer | None:
    names = {name.lower() for name in call.attributes["activations"] or ["tanh"]}
    if not _usual(call, any_activation=names in ({"tanh"}, {"relu"})):
        return None
    return _simple(call, _weighted(nn.RNN, call, nonlinearity=names.pop()))


def _simple(call: Call, module: nn.RNNBase) -> Layer:
    after = (rnn_outputs, (2 if module.bidirectional else 1,))
    return Layer(module, (0, 5) if call.has(5) else (0,), after=after, several=True)


def _usual(call: Call, any_activation: bool = False) -> bool:
    """Whether torch's layer does what the node asks for."""
    attributes = call.attributes
    names = attributes["activations"]
    usual = (
        names is None
        or any_activation
        or [name.title() for name in names]
        == _USUAL[call.node.op_type] * (len(names) // len(_USUAL[call.node.op_type]))
    )
    weights = call.constant(1) is not None and call.constant(2) is not None and call.weights(1, 2, 3)
    plain = not call.has(4) and attributes["clip"] is None and not attributes.get("layout", 0)
    return usual and weights and plain and attributes["direction"] in ("forward", "bidirectional")


def _weighted(kind: Any, call: Call, **options: Any) -> Any:
    w, r, b = call.constant(1), call.constant(2), call.constant(3)
    assert w is not None and r is not None
    hidden = r.shape[2]
    module = kind(w.shape[2], hidden, bias=b is not None, bidirectional=w.shape[0] == 2, **options)
    order = _GATES[call.node.op_type]

    def gates(tensor: Tensor) -> nn.Parameter:
        parts = tensor.detach().unflatten(0, (len(order), hidden))
        return nn.Parameter(torch.cat([parts[index] for index in order]).clone())

    for which, suffix in enumerate(("_l0", "_l0_reverse")[: w.shape[0]]):
        setattr(module, f"weight_ih{suffix}", gates(w[which]))
        setattr(module, f"weight_hh{suffix}", gates(r[which]))
        if b is not None:
            half = len(order) * hidden
            setattr(module, f"bias_ih{suffix}", gates(b[which, :half]))
            setattr(module, f"bias_hh{suffix}", gates(b[which, half:]))
    module.flatten_parameters()
    return module
