"""Operators whose weights are constants, as trainable layers of `torch.nn`: one function per operator.

`plain` makes calls of torch's own functions where the settings are constants, so that the code reads like PyTorch.
Each returns None where nothing of torch means the same, and the operator's function of the table is used instead.
"""

from __future__ import annotations

from tightship.bridges.onnx_to_torch.layers import convolutions, dense, normalizations, plain, pooling, recurrent
from tightship.bridges.onnx_to_torch.layers.layer import LAYERS, Call, Layer, Plain

__all__ = [
    "LAYERS",
    "Call",
    "Layer",
    "Plain",
    "convolutions",
    "dense",
    "layer_of",
    "normalizations",
    "plain",
    "pooling",
    "recurrent",
]


def layer_of(call: Call) -> Layer | Plain | None:
    """Return the layer or plain call that a node becomes, or None."""
    make = LAYERS.get(call.node.op_type)
    return make(call) if make else None
