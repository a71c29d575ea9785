"""The table of layer types: each row of it builds one type's operators."""

from __future__ import annotations

from tightship.formats.neural_network import (
    activation,
    convolution,
    elementwise,
    filling,
    indexing,
    normalization,
    pooling,
    recurrent,
    reduction,
    resizing,
    shaping,
    suppression,
)
from tightship.formats.neural_network.control import CONTROL
from tightship.formats.neural_network.layer import Build

__all__ = ["TABLE", "layers"]

_ROOMS = (
    activation,
    convolution,
    elementwise,
    filling,
    indexing,
    normalization,
    pooling,
    recurrent,
    reduction,
    resizing,
    shaping,
    suppression,
)

TABLE: dict[str, Build] = {kind: build for room in _ROOMS for kind, build in room.LAYERS.items()}


def layers() -> dict[str, bool]:
    """Return every layer type of Core ML's neural networks in the proto's order, and whether it is read."""
    from coremltools.proto import NeuralNetwork_pb2

    fields = NeuralNetwork_pb2.NeuralNetworkLayer.DESCRIPTOR.oneofs_by_name["layer"].fields
    return {field.name: field.name in TABLE or field.name in CONTROL for field in fields}
