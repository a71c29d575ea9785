"""Descriptions and weights of models that Keras 1 wrote, put in the words of Keras 2.

What changed from 1 to 2 is in Keras 2's own reader of such files (`keras/legacy/interfaces.py` and
`preprocess_weights_for_loading` of `keras/engine/saving.py`, 2.2.4). What only training uses is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError

__all__ = ["convolves", "renamed", "reordered"]

Config = dict[str, Any]
Arrays = list[np.ndarray]

_TRAINING = frozenset({
    "init", "inner_init", "forget_bias_init", "beta_init", "gamma_init", "W_regularizer", "U_regularizer",
    "b_regularizer", "gamma_regularizer", "beta_regularizer", "activity_regularizer", "W_constraint", "U_constraint",
    "b_constraint", "dropout_W", "dropout_U", "consume_less", "input_length", "input_shape", "weights",
})  # fmt: skip
_JOINED = 2
"""What Keras 2 calls the way of computing a recurrence in which the gates' weights lie side by side."""

_DATA_FORMAT = {"th": "channels_first", "tf": "channels_last"}
_UNORDERED = ("ZeroPadding2D", "ZeroPadding3D", "Cropping2D", "Cropping3D")
_OF_EVERY_LAYER = {"bias": "use_bias", "input_dtype": "dtype", "dim_ordering": "data_format"}


@dataclass(frozen=True)
class _Row:
    """A kind of layer: its name in Keras 2, its settings' new names, and what else changes.

    `joined` are settings that became one tuple, `length` those that became a tuple of one, `needed` the only values of
    settings under which Keras 2 and newer can compute the same. `n_weights` is without the bias.
    """

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    needed: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    added: Config = field(default_factory=dict)
    n_weights: int = 0


_CONVOLUTION = {
    "nb_filter": "filters",
    "subsample": "strides",
    "border_mode": "padding",
    "atrous_rate": "dilation_rate",
}
_CONVOLUTION_1D = {
    "nb_filter": "filters", "filter_length": "kernel_size", "subsample_length": "strides", "border_mode": "padding",
    "atrous_rate": "dilation_rate",
}  # fmt: skip
_PADDING = {"border_mode": "padding"}
_PADDING_1D = {"pool_length": "pool_size", "stride": "strides", "border_mode": "padding"}
_KERNEL_2D = {"kernel_size": ("nb_row", "nb_col")}
_KERNEL_3D = {"kernel_size": ("kernel_dim1", "kernel_dim2", "kernel_dim3")}
_RECURRENT = {"output_dim": "units", "inner_activation": "recurrent_activation"}
_INPUT = ("input_dim",)


def _convolution(
    name: str, settings: dict[str, str], joined: Mapping[str, tuple[str, ...]], n_weights: int = 1
) -> _Row:
    return _Row(name, settings, joined, _INPUT, n_weights=n_weights)


def _dropout(name: str) -> _Row:
    return _Row(name, {"p": "rate"})


# fmt: off
_LAYERS: dict[str, _Row] = {
    "Dense": _Row("Dense", {"output_dim": "units"}, dropped=_INPUT, n_weights=1),
    "TimeDistributedDense": _Row("Dense", {"output_dim": "units"}, dropped=_INPUT, n_weights=1),
    "Dropout": _dropout("Dropout"), "GaussianDropout": _dropout("GaussianDropout"),
    "SpatialDropout1D": _dropout("SpatialDropout1D"), "SpatialDropout2D": _dropout("SpatialDropout2D"),
    "SpatialDropout3D": _dropout("SpatialDropout3D"), "GaussianNoise": _Row("GaussianNoise", {"sigma": "stddev"}),
    "Embedding": _Row("Embedding", dropped=("dropout",), n_weights=1),
    "Convolution1D": _convolution("Conv1D", _CONVOLUTION_1D, {}),
    "AtrousConvolution1D": _convolution("Conv1D", _CONVOLUTION_1D, {}),
    "Convolution2D": _convolution("Conv2D", _CONVOLUTION, _KERNEL_2D),
    "AtrousConvolution2D": _convolution("Conv2D", _CONVOLUTION, _KERNEL_2D),
    "SeparableConvolution2D": _convolution("SeparableConv2D", _CONVOLUTION, _KERNEL_2D, n_weights=2),
    "Convolution3D": _convolution("Conv3D", _CONVOLUTION, _KERNEL_3D),
    "MaxPooling1D": _Row("MaxPooling1D", _PADDING_1D), "AveragePooling1D": _Row("AveragePooling1D", _PADDING_1D),
    "MaxPooling2D": _Row("MaxPooling2D", _PADDING), "AveragePooling2D": _Row("AveragePooling2D", _PADDING),
    "MaxPooling3D": _Row("MaxPooling3D", _PADDING), "AveragePooling3D": _Row("AveragePooling3D", _PADDING),
    "UpSampling1D": _Row("UpSampling1D", {"length": "size"}),
    "BatchNormalization": _Row("BatchNormalization", needed={"mode": (0,)}, n_weights=4),
    "SimpleRNN": _Row("SimpleRNN", _RECURRENT, dropped=_INPUT, n_weights=3),
    "LSTM": _Row("LSTM", _RECURRENT, dropped=_INPUT, n_weights=12),
    "GRU": _Row("GRU", _RECURRENT, dropped=_INPUT, added={"reset_after": False}, n_weights=9),
    "PReLU": _Row("PReLU", n_weights=1),
    **{name: _Row(name) for name in (
        "Activation", "ActivityRegularization", "Bidirectional", "Cropping1D", "Cropping2D", "Cropping3D", "ELU",
        "Flatten", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D", "GlobalMaxPooling1D",
        "GlobalMaxPooling2D", "GlobalMaxPooling3D", "InputLayer", "LeakyReLU", "Masking", "Model", "Permute",
        "RepeatVector", "Reshape", "Sequential", "TimeDistributed", "UpSampling2D", "UpSampling3D", "ZeroPadding1D",
        "ZeroPadding2D", "ZeroPadding3D",
    )},
}
_MERGES = {
    "sum": ("Add", {}), "mul": ("Multiply", {}), "ave": ("Average", {}), "max": ("Maximum", {}),
    "concat": ("Concatenate", {"concat_axis": "axis"}), "dot": ("Dot", {"dot_axes": "axes"}),
    "cos": ("Dot", {"dot_axes": "axes"}),
}
# fmt: on


def convolves(config: Config, backend: str = "") -> bool:
    """Whether the file is Theano's, which turns kernels round before it multiplies. Keras 1 does not note its backend;
    where the file was not told (attribute `backend`), the order of axes tells: "th" is Theano's own.
    """
    orders = {layer["config"].get("dim_ordering") for layer in _layers(config) if isinstance(layer["config"], dict)}
    return backend == "theano" if backend else "th" in orders


def renamed(path: Path, config: Config, theano: bool) -> Config:
    """Return the description of a whole model as Keras 2 would have written it. Raises `UnsupportedError`."""
    reasons = sorted({*_faults(config), *(_padded_otherwise(config) if theano else ())})
    if reasons:
        raise UnsupportedError(
            f"{path}: written by Keras 1, with {', '.join(reasons)}, which no newer Keras has; build the network anew "
            "in Keras 3 and give both: package.module:function --weights FILE"
        )
    config = copy.deepcopy(config)
    for layer in _layers(config):
        _rename(layer)
    _give_order(config)
    return config


def _give_order(config: Config) -> None:
    """Padding did not save its order of axes, which is that of the other layers."""
    settings = [layer["config"] for layer in _layers(config) if isinstance(layer["config"], dict)]
    orders = {found["data_format"] for found in settings if found.get("data_format")}
    for layer in _layers(config):
        if len(orders) == 1 and layer["class_name"] in _UNORDERED:
            layer["config"].setdefault("data_format", *orders)


def _layers(value: Any) -> Iterator[Config]:
    """Every layer of a description, models and wrappers before what is in them."""
    if isinstance(value, list):
        for item in value:
            yield from _layers(item)
    elif isinstance(value, dict):
        if "class_name" in value:
            yield value
        for item in list(value.values()):
            yield from _layers(item)


def _faults(config: Config) -> Iterator[str]:
    for layer in _layers(config):
        kind, settings = layer["class_name"], layer.get("config")
        if kind == "Merge":
            if not isinstance(settings, dict) or settings.get("mode") not in _MERGES or settings.get("layers"):
                yield f"a Merge by {settings.get('mode') if isinstance(settings, dict) else None!r}"
        elif kind not in _LAYERS:
            yield f"a {kind}"
        elif isinstance(settings, dict):
            for name, allowed in _LAYERS[kind].needed.items():
                if settings.get(name, allowed[0]) not in allowed:
                    yield f"a {kind} of {name} {settings[name]!r}"


def _padded_otherwise(config: Config) -> Iterator[str]:
    """Layers whose "same" padding TensorFlow lays otherwise than Theano, where sizes and strides leave a choice."""
    for layer in _layers(config):
        settings = layer.get("config")
        if isinstance(settings, dict) and settings.get("border_mode") == "same":
            sizes = [settings.get(name, 1) for name in ("nb_row", "nb_col", "filter_length")]
            strides = np.ravel(
                [settings.get(name, 1) for name in ("subsample", "subsample_length") if name in settings]
            )
            if "Pooling" in layer["class_name"] or any(size % 2 == 0 for size in sizes) or np.any(strides != 1):
                yield f'a {layer["class_name"]} padded as Theano pads ("same")'


def _rename(layer: Config) -> None:
    settings = layer["config"]
    if not isinstance(settings, dict):  # a Sequential's layers
        return
    if layer["class_name"] == "Merge":
        _rename_merge(layer)
        return
    row = _LAYERS[layer["class_name"]]
    if settings.get("consume_less") == "gpu":
        settings["implementation"] = _JOINED
    for name in (*_TRAINING, *row.dropped, *row.needed):
        settings.pop(name, None)
    if layer["class_name"] == "Embedding":
        settings.pop("input_dtype", None)
    for old, new in {**_OF_EVERY_LAYER, **row.settings}.items():
        if old in settings:
            settings[new] = settings.pop(old)
    for new, olds in row.joined.items():
        settings[new] = [settings.pop(old) for old in olds]
    if settings.get("data_format") is not None:
        settings["data_format"] = _DATA_FORMAT[settings["data_format"]]
    layer["class_name"] = row.name
    settings.update(row.added)


def _rename_merge(layer: Config) -> None:
    old = layer["config"]
    name, settings = _MERGES[old["mode"]]
    chosen = {new: old[before] for before, new in settings.items()}
    if old["mode"] == "cos":
        chosen["normalize"] = True
    layer["class_name"], layer["config"] = name, {"name": old["name"], **chosen}


def reordered(path: Path, layer: Config, arrays: Sequence[np.ndarray], flip: bool) -> Arrays:
    """Return the weights of a renamed `layer` as Keras 2 keeps them; of a model, those of all its layers.

    `flip` turns kernels round, for files of Theano, which convolved where TensorFlow correlates.
    Raises `InvalidModel` where their number or shapes do not fit.
    """
    remaining = iter(arrays)
    leaves = list(_leaves(layer))
    kept: list[Arrays] = []
    try:
        trained = [list(_take(remaining, _n_trained(leaf), leaf)) for leaf in leaves]
        kept = [list(_take(remaining, _n_weights(leaf) - _n_trained(leaf), leaf)) for leaf in leaves]
        if next(remaining, None) is not None:
            raise ValueError("there are more")
        changed = [_changed(leaf, part, flip) for leaf, part in zip(leaves, trained, strict=True)]
    except (ValueError, IndexError) as error:
        name = layer["config"]["name"] if isinstance(layer["config"], dict) else layer.get("name")
        shapes = [array.shape for array in arrays]
        raise InvalidModel(f"{path}: the weights of {name!r}, {shapes}, do not fit the layer: {error}") from error
    return [array for part in (*changed, *kept) for array in part]


def _leaves(layer: Config) -> Iterator[Config]:
    """The layers with weights of their own, in the order in which Keras lists them."""
    config = layer["config"]
    if layer["class_name"] in ("Sequential", "Model", "Functional"):
        for part in config if isinstance(config, list) else config["layers"]:
            yield from _leaves(part)
    elif layer["class_name"] == "Bidirectional":
        yield from (*_leaves(config["layer"]), *_leaves(config["layer"]))
    elif layer["class_name"] == "TimeDistributed":
        yield from _leaves(config["layer"])
    else:
        yield layer


def _n_weights(leaf: Config) -> int:
    n_weights = max((row.n_weights for row in _LAYERS.values() if row.name == leaf["class_name"]), default=0)
    if n_weights and leaf["config"].get("implementation") == _JOINED:
        return 3
    return n_weights + (1 if n_weights and leaf["config"].get("use_bias") else 0)


def _n_trained(leaf: Config) -> int:
    return 2 if leaf["class_name"] == "BatchNormalization" else _n_weights(leaf)


def _take(arrays: Iterator[np.ndarray], n: int, leaf: Config) -> Arrays:
    found = list(islice(arrays, n))
    if len(found) != n:
        raise ValueError(f"a {leaf['class_name']} has {n} arrays")
    return found


def _changed(leaf: Config, arrays: Arrays, flip: bool) -> Arrays:
    change = _CHANGES.get(leaf["class_name"])
    return arrays if change is None else change(leaf["config"], arrays, flip)


def _convolution_1d(config: Config, arrays: Arrays, flip: bool) -> Arrays:
    kernel = arrays[0]  # [length, 1, channels, filters], or [filters, channels, length, 1] before Keras 1.1
    length = config["kernel_size"]
    if kernel.ndim == 4 and (kernel.shape[:2] != (length, 1) or kernel.shape[3] != config["filters"]):
        kernel = kernel.transpose(2, 3, 1, 0)
    if kernel.ndim == 4:
        kernel = kernel[:, 0]
    return [_turned(kernel, 1, flip), *arrays[1:]]


def _convolution_nd(config: Config, arrays: Arrays, flip: bool) -> Arrays:
    kernel = arrays[0]
    n_axes = kernel.ndim - 2
    if config.get("data_format") == "channels_first":  # [filters, channels, *axes]
        kernel = kernel.transpose(*range(2, kernel.ndim), 1, 0)
    return [_turned(kernel, n_axes, flip), *arrays[1:]]


def _separable(config: Config, arrays: Arrays, flip: bool) -> Arrays:
    if config.get("data_format") == "channels_first":
        arrays = [arrays[0].transpose(2, 3, 1, 0), arrays[1].transpose(2, 3, 1, 0), *arrays[2:]]
    return [_turned(arrays[0], 2, flip), *arrays[1:]]


def _turned(kernel: np.ndarray, n_axes: int, flip: bool) -> np.ndarray:
    return np.flip(kernel, tuple(range(n_axes))).copy() if flip else kernel


def _gates(order: Sequence[int]) -> Callable[[Config, Arrays, bool], Arrays]:
    """A gate had W, U and b of its own; Keras 2 keeps each side by side for all gates, in this order."""

    def joined(config: Config, arrays: Arrays, flip: bool) -> Arrays:
        if len(arrays) == 3:
            return arrays
        return [np.concatenate([arrays[3 * gate + part] for gate in order], axis=-1) for part in range(3)]

    return joined


_CHANGES: dict[str, Callable[[Config, Arrays, bool], Arrays]] = {
    "Conv1D": _convolution_1d,
    "Conv2D": _convolution_nd,
    "Conv3D": _convolution_nd,
    "SeparableConv2D": _separable,
    "GRU": _gates((0, 1, 2)),
    "LSTM": _gates((0, 2, 1, 3)),  # input, cell, forget, output became input, forget, cell, output
}
