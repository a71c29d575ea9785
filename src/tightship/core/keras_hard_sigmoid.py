"""`hard_sigmoid` as Keras 1 and 2 meant it: clip(0.2 x + 0.5, 0, 1). Keras 3 computes clip(x / 6 + 0.5, 0, 1).

Since 0.2 x = (1.2 x) / 6, a layer that has it keeps its meaning when what goes into it is 1.2 times as large: its
weights and biases where it has some. LSTM and GRU of Keras 2 up to 2.2 have it by default in their gates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.errors import UnsupportedError

if TYPE_CHECKING:
    import keras

__all__ = ["hard_sigmoids_written_out", "steepen"]

Config = dict[str, Any]

STEEPER = 1.2
NAME = "hard_sigmoid"


def hard_sigmoids_written_out(config: Config) -> Config:
    """Return a description in which each layer that is no more than the old hard sigmoid is a scale and a clip."""
    config = copy.deepcopy(config)
    for layer in _alone(config):
        name = layer["config"]["name"]
        parts: list[Config] = [
            {"class_name": "Rescaling", "config": {"name": f"{name}_line", "scale": 0.2, "offset": 0.5}},
            {"class_name": "ReLU", "config": {"name": f"{name}_clip", "max_value": 1.0}},
        ]
        layer.update(class_name="Sequential", config={"name": name, "layers": parts})
    return config


def _alone(value: Any) -> Iterator[Config]:
    if isinstance(value, list):
        for item in value:
            yield from _alone(item)
    elif isinstance(value, dict):
        if value.get("class_name") == "Activation" and value["config"].get("activation") == NAME:
            yield value
        else:
            for item in list(value.values()):
                yield from _alone(item)


def steepen(path: Path, model: keras.Model) -> None:
    """Scale the weights in front of the old hard sigmoid, in every layer of a model that was just loaded.

    Raises `UnsupportedError` where a layer has it but no weights that can be scaled.
    """
    import keras

    for layer in model._flatten_layers(recursive=True, include_self=False):
        gates = _is_old(getattr(layer, "recurrent_activation", None))
        output = _is_old(getattr(layer, "activation", None))
        if isinstance(layer, keras.layers.LSTM | keras.layers.GRU | keras.layers.SimpleRNN):
            continue  # its cell is a layer too
        if isinstance(layer, _cells()) and (gates or output):
            _steepen_cell(layer, gates, output)
        elif output and (names := _linear(layer)):
            for name in names:
                weight = getattr(layer, name)
                weight.assign(np.asarray(weight) * STEEPER)
        elif gates or output:
            raise UnsupportedError(
                f"{path}: {type(layer).__name__} {layer.name!r} has the hard_sigmoid of Keras 2, which Keras 3 does "
                "not compute; export the model with model.export('folder') where it was made, and give that folder"
            )


def _is_old(activation: Any) -> bool:
    return getattr(activation, "__name__", "") == NAME


def _cells() -> tuple[type, ...]:
    import keras

    return (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)


def _steepen_cell(cell: Any, gates: bool, output: bool) -> None:
    """Scale the columns of the gates, and of the candidate, which `activation` belongs to."""
    import keras

    n_gates, candidate = {"LSTMCell": (4, 2), "GRUCell": (3, 2), "SimpleRNNCell": (1, 0)}[type(cell).__name__]
    factors = np.full((n_gates, cell.units), STEEPER if gates else 1.0, np.float32)
    factors[candidate] = STEEPER if output else 1.0
    if output and isinstance(cell, keras.layers.LSTMCell | keras.layers.GRUCell):
        raise UnsupportedError(f"{cell.name}: hard_sigmoid of Keras 2 as activation of a recurrent layer")
    for weight in (cell.kernel, cell.recurrent_kernel, cell.bias):
        if weight is not None:
            weight.assign(np.asarray(weight) * factors.reshape(-1))


def _linear(layer: Any) -> tuple[str, ...]:
    """The weights that the output of a layer, before its activation, is linear in."""
    import keras

    kinds = keras.layers
    if isinstance(layer, kinds.SeparableConv1D | kinds.SeparableConv2D):
        names: tuple[str, ...] = ("pointwise_kernel", "bias")
    elif isinstance(layer, kinds.Dense | kinds.Conv1D | kinds.Conv2D | kinds.Conv3D | kinds.DepthwiseConv2D):
        names = ("kernel", "bias")
    else:
        return ()
    return tuple(name for name in names if getattr(layer, name, None) is not None)
