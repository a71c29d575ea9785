"""The keras form: what a Keras model takes and gives, by name.

Inputs have the names of the model's input tensors; outputs those of a dict that the model returns, else of its output
layers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tightship.core.model import Model, Step
from tightship.core.specs import Dim, TensorSpec
from tightship.errors import InvalidModel

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

__all__ = ["BATCH", "from_keras", "is_channels_first", "serving_function", "weight_bytes"]

BATCH = "batch"
"""Name of a free axis 0."""


def from_keras(model: keras.Model, history: tuple[Step, ...] = ()) -> Model:
    """Wrap a `keras.Model` whose inputs have known shapes as a Model of the keras form.

    Raises `InvalidModel` where the shapes are not known: a subclass of `keras.Model`, or one that was never built.
    """
    inputs, outputs = _symbolic(model, "inputs"), _symbolic(model, "outputs")
    return Model(
        "keras",
        model,
        tuple(_spec(name, tensor) for name, tensor in zip(_input_names(inputs), inputs, strict=True)),
        tuple(_spec(name, tensor) for name, tensor in zip(_output_names(model, outputs), outputs, strict=True)),
        history,
    )


def serving_function(model: Model, compiled: bool = False) -> tf.types.experimental.PolymorphicFunction:
    """Return the model in inference mode as a `tf.function`: tensors in the order of the specs to a dict by name.

    `compiled` leaves it to XLA, which has kernels for channels-first images on processors where TensorFlow has none.
    """
    import keras
    import tensorflow as tf

    content: keras.Model = model.content
    structure = _structure(content, "input")
    names = [spec.name for spec in model.outputs]

    def call(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        packed = tensors[0] if structure is None else keras.tree.pack_sequence_as(structure, list(tensors))
        found = keras.tree.flatten(content(packed, training=False))
        # An identity for each, so that a tensor that is two outputs or also an input keeps both names.
        return {name: tf.identity(tensor) for name, tensor in zip(names, found, strict=True)}

    shapes = [tuple(dim if isinstance(dim, int) else None for dim in spec.shape) for spec in model.inputs]
    signature = [
        tf.TensorSpec(shape, "string" if spec.dtype == "str" else spec.dtype, name=spec.name)
        for spec, shape in zip(model.inputs, shapes, strict=True)
    ]
    return tf.function(call, input_signature=signature, autograph=False, jit_compile=compiled or None)


def is_channels_first(model: Model) -> bool:
    """Whether a layer, also of a model inside, has the channels of images before rows and columns."""
    layers = model.content._flatten_layers(recursive=True, include_self=False)
    return any(getattr(layer, "data_format", None) == "channels_first" for layer in layers)


def weight_bytes(model: Model) -> int:
    """Bytes of all weights of a model of the keras form."""
    import numpy as np
    import tensorflow as tf

    weights = model.content.variables
    return sum(int(np.prod(weight.shape)) * tf.dtypes.as_dtype(weight.dtype).size for weight in weights)


def _symbolic(model: Any, kind: str) -> list[Any]:
    try:
        tensors = getattr(model, kind, None)
    except (AttributeError, ValueError):  # a Sequential model that was never built
        tensors = None
    if not tensors:
        raise InvalidModel(
            f"Keras model {getattr(model, 'name', '?')!r} has no {kind} of known shape: it is a subclass of "
            "keras.Model or was never built; write it with keras.Input and keras.Model(inputs, outputs)"
        )
    return list(tensors)


def _input_names(tensors: list[Any]) -> list[str]:
    """Names as TensorFlow takes them for an argument: it would call `my image` Placeholder."""
    names = (re.sub(r"[^\w.-]", "_", str(tensor.name or ""), flags=re.ASCII).lstrip("_.-") for tensor in tensors)
    return _distinct([name or f"input_{index}" for index, name in enumerate(names)])


def _output_names(model: Any, tensors: list[Any]) -> list[str]:
    structure = _structure(model, "output")
    if isinstance(structure, dict) and len(structure) == len(tensors):
        return sorted(structure)  # the order in which Keras flattens a dict
    layers: list[str] | None = getattr(model, "output_names", None)  # Sequential has none
    return _distinct(list(layers or [model.layers[-1].name] * len(tensors)))


def _distinct(names: list[str]) -> list[str]:
    """Number the names that come twice: a layer that is used twice gives two outputs of one name."""
    return [
        name if names.count(name) == 1 else f"{name}_{names[:index].count(name)}" for index, name in enumerate(names)
    ]


def _structure(model: Any, kind: str) -> Any:
    """The container of several inputs or outputs; None where there is a single tensor, as Sequential always has."""
    try:
        structure = getattr(model, kind)
    except (AttributeError, ValueError):
        return None
    return structure if isinstance(structure, list | tuple | dict) else None


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = str(tensor.dtype)
    return TensorSpec(name, "str" if dtype == "string" else dtype, tuple(map(_dim, tensor.shape, range(9999))))


def _dim(length: int | None, axis: int) -> Dim:
    if length is not None:
        return int(length)
    return BATCH if axis == 0 else "?"
