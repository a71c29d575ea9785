"""Descriptions of models that Keras 2 wrote, put in the words of Keras 3.

Operators that were recorded as calls of TensorFlow functions (`TFOpLambda`) become Keras' own operations by a table; a
function that is not in it is refused, never looked up.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tightship.errors import UnsupportedOperators

__all__ = ["modernized"]

Config = dict[str, Any]


@dataclass(frozen=True)
class _Row:
    """A TensorFlow function: Keras' operation, its parameters in order, and which of them the operation is built with.

    `settings` maps a TensorFlow parameter to the operation's own; the other parameters are what it is called with.
    """

    operation: str
    parameters: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)


def _pair(operation: str) -> _Row:
    return _Row(operation, ("x", "y"))


def _one(operation: str, name: str = "x") -> _Row:
    return _Row(operation, (name,))


def _reduction(operation: str) -> _Row:
    return _Row(operation, ("input_tensor", "axis", "keepdims"), {"axis": "axis", "keepdims": "keepdims"})


# fmt: off
_FUNCTIONS: dict[str, _Row] = {
    "math.add": _pair("numpy.Add"), "__operators__.add": _pair("numpy.Add"),
    "math.subtract": _pair("numpy.Subtract"), "__operators__.sub": _pair("numpy.Subtract"),
    "math.multiply": _pair("numpy.Multiply"), "__operators__.mul": _pair("numpy.Multiply"),
    "math.divide": _pair("numpy.Divide"), "math.truediv": _pair("numpy.TrueDivide"),
    "__operators__.truediv": _pair("numpy.TrueDivide"), "math.floordiv": _pair("numpy.FloorDivide"),
    "math.divide_no_nan": _pair("numpy.DivideNoNan"), "math.pow": _pair("numpy.Power"),
    "math.maximum": _pair("numpy.Maximum"), "math.minimum": _pair("numpy.Minimum"),
    "math.squared_difference": _pair("numpy.SquaredDifference"),
    "linalg.matmul": _Row("numpy.Matmul", ("a", "b")), "math.abs": _one("numpy.Absolute"),
    "math.negative": _one("numpy.Negative"), "math.exp": _one("numpy.Exp"), "math.log": _one("numpy.Log"),
    "math.sqrt": _one("numpy.Sqrt"), "math.rsqrt": _one("math.Rsqrt"), "math.square": _one("numpy.Square"),
    "math.sin": _one("numpy.Sin"), "math.cos": _one("numpy.Cos"), "math.erf": _one("math.Erf"),
    "math.tanh": _one("numpy.Tanh"), "math.sigmoid": _one("nn.Sigmoid"),
    "math.reduce_sum": _reduction("numpy.Sum"), "math.reduce_mean": _reduction("numpy.Mean"),
    "math.reduce_max": _reduction("numpy.Max"), "math.reduce_min": _reduction("numpy.Min"),
    "nn.relu": _one("nn.Relu", "features"), "nn.relu6": _one("nn.Relu6", "features"),
    "nn.elu": _one("nn.Elu", "features"), "nn.selu": _one("nn.Selu", "features"),
    "nn.silu": _one("nn.Silu", "features"), "nn.softplus": _one("nn.Softplus", "features"),
    "nn.softmax": _Row("nn.Softmax", ("logits", "axis"), {"axis": "axis"}),
    "clip_by_value": _Row("numpy.Clip", ("t", "clip_value_min", "clip_value_max"),
                          {"clip_value_min": "x_min", "clip_value_max": "x_max"}),
    "concat": _Row("numpy.Concatenate", ("values", "axis"), {"axis": "axis"}),
    "stack": _Row("numpy.Stack", ("values", "axis"), {"axis": "axis"}),
    "expand_dims": _Row("numpy.ExpandDims", ("input", "axis"), {"axis": "axis"}),
    "squeeze": _Row("numpy.Squeeze", ("input", "axis"), {"axis": "axis"}),
    "reshape": _Row("numpy.Reshape", ("tensor", "shape"), {"shape": "newshape"}),
    "transpose": _Row("numpy.Transpose", ("a", "perm"), {"perm": "axes"}),
    "compat.v1.transpose": _Row("numpy.Transpose", ("a", "perm"), {"perm": "axes"}),
    "cast": _Row("core.Cast", ("x", "dtype"), {"dtype": "dtype"}),
}

# Settings that Keras 3 does not know, and the only values at which leaving them out changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "groups": (1, None), "time_major": (False,), "renorm": (False,), "fused": (True, False, None),
    "virtual_batch_size": (None,), "adjustment": (None,),
}
_LACKING = {
    "groups": ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Conv1DTranspose",
               "Conv2DTranspose", "Conv3DTranspose"),
    "time_major": ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional"),
    "renorm": ("BatchNormalization",), "fused": ("BatchNormalization",), "virtual_batch_size": ("BatchNormalization",),
    "adjustment": ("BatchNormalization",),
}
# fmt: on

_MODELS = ("Model", "Functional")
_WRAPPERS = ("Bidirectional", "TimeDistributed")


def modernized(path: Path, config: Config) -> Config:
    """Return the description of a whole model as Keras 3 reads it. Raises `UnsupportedOperators`."""
    config = copy.deepcopy(config)
    missing = sorted(set(_unknown_functions(config)))
    if missing:
        raise UnsupportedOperators(
            f"{path}: {len(missing)} TensorFlow functions have no known Keras operation: {', '.join(missing)}; "
            "export the model with model.export('folder') where it was made, and give tightship that folder"
        )
    _modernize(config)
    return config


def _unknown_functions(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _unknown_functions(item)
    elif isinstance(value, dict):
        if value.get("class_name") == "TFOpLambda" and value["config"].get("function") not in _FUNCTIONS:
            yield f"tf.{value['config'].get('function')} (layer {value.get('name')!r})"
        if value.get("class_name") in ("SlicingOpLambda", "ClassMethod", "InstanceMethod", "TensorFlowOpLayer"):
            yield f"{value['class_name']} (layer {value.get('name')!r})"
        for item in value.values():
            yield from _unknown_functions(item)


def _modernize(layer: Config) -> None:
    """Change a layer's description, and those inside it, in place."""
    kind, config = layer.get("class_name"), layer.get("config")
    if isinstance(config, list):  # Sequential before Keras 2.2.3
        config = layer["config"] = {"name": "sequential", "layers": config}
    if not isinstance(config, dict):
        return
    if kind != "TFOpLambda" and isinstance(layer.get("inbound_nodes"), list):
        layer["inbound_nodes"] = [_modern_node(node) for node in layer["inbound_nodes"]]
    if kind == "TFOpLambda":
        _to_operation(layer)
        return
    for name in [name for name, kinds in _LACKING.items() if kind in kinds and name in config]:
        if config[name] in _NEUTRAL[name]:
            del config[name]
    if kind in _MODELS and isinstance(config.get("input_layers"), list):
        _without_own_node(config)
    if kind == "Sequential":
        _give_input(config)
    elif kind == "InputLayer" and "batch_input_shape" in config:
        config["batch_shape"] = config.pop("batch_input_shape")
    else:
        config.pop("batch_input_shape", None)
    for value in config.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict) and "class_name" in part:
                _without_dtype(part)
                _modernize(part)
                if value is part and "inbound_nodes" not in part and kind in _WRAPPERS:
                    part.setdefault("module", "keras.layers")  # else Keras looks for a class of the user's
                    part.setdefault("registered_name", None)


def _without_own_node(config: Config) -> None:
    """Count the calls of the models inside a functional model from 0.

    Up to Keras 2 a model's own making counted as the first call. Keras 3 allows for that in the outputs of the whole
    alone, and only where the inner model is functional.
    """
    models = {layer["name"]: layer for layer in config["layers"] if layer["class_name"] in (*_MODELS, "Sequential")}
    calls = [part for layer in config["layers"] for node in layer["inbound_nodes"] for part in _references(node)]
    outputs = list(_references(config["output_layers"]))
    for name, layer in models.items():
        found = [part for part in (*calls, *outputs) if part[0] == name]
        if found and max(part[1] for part in found) >= len(layer["inbound_nodes"]):
            for part in found:
                part[1] -= 1
    for part in outputs:
        if part[0] in models and models[part[0]]["class_name"] in _MODELS:
            part[1] += 1


def _references(value: Any) -> Iterator[list[Any]]:
    """Every `[layer, call, output, ...]` in a part of a description."""
    if isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
            yield value
        else:
            for item in value:
                yield from _references(item)


def _without_dtype(part: Config) -> None:
    """TensorFlow 1.x and 2.0 gave initializers a dtype, which Keras 3 takes from the layer."""
    if isinstance(part.get("config"), dict) and not {"name", "dtype"} <= part["config"].keys():
        part["config"].pop("dtype", None)


def _give_input(config: Config) -> None:
    """Sequential's first layer had the shape of the input; Keras 3 wants a layer for it."""
    first = config["layers"][0] if config.get("layers") else {}
    inner = first.get("config", {}) if isinstance(first, dict) else {}
    shape = inner.pop("batch_input_shape", None) if first.get("class_name") != "InputLayer" else None
    if shape is not None:
        dtype = inner["dtype"] if isinstance(inner.get("dtype"), str) else "float32"
        given = {"batch_shape": shape, "dtype": dtype, "name": f"{inner.get('name', 'sequential')}_input"}
        config["layers"].insert(0, {"class_name": "InputLayer", "config": given})


def _to_operation(layer: Config) -> None:
    row = _FUNCTIONS[layer["config"]["function"]]
    calls = [_arguments(row, node) for node in layer["inbound_nodes"]]
    settings = {row.settings[name]: value for call in calls[:1] for name, value in call.items() if name in row.settings}
    module, _, name = row.operation.partition(".")
    layer.update(
        module=f"keras.src.ops.{module}",
        class_name=name,
        registered_name=name,
        config={"name": layer["config"]["name"], **settings},
        inbound_nodes=[
            {"args": [value for key, value in call.items() if key not in row.settings], "kwargs": {}} for call in calls
        ],
    )


def _arguments(row: _Row, node: list[Any]) -> Config:
    """The arguments of a call (`[layer, node, tensor, {name: value}]`) by TensorFlow's names, tensors as in Keras 3."""
    if isinstance(node[0], list):  # a list of tensors is the first argument
        first: Any = [_argument(part[:3]) for part in node]
        others = node[0][3] if len(node[0]) > 3 else {}
    else:
        first, others = _argument(node[:3]), node[3] if len(node) > 3 else {}
    return {
        row.parameters[0]: first,
        **{name: _argument(others[name]) for name in row.parameters[1:] if others.get(name) is not None},
    }


def _argument(value: Any) -> Any:
    """`[layer, node, tensor]` is a tensor, `["_CONSTANT_VALUE", -1, value]` a constant, all else itself."""
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
        if value[0] == "_CONSTANT_VALUE":
            return value[2]
        return _tensor(value)
    if isinstance(value, list):
        return [_argument(item) for item in value]
    return value


def _tensor(history: list[Any]) -> Config:
    """A tensor by the layer, call and output it comes from; Keras takes shape and type from there."""
    config = {"shape": [], "dtype": "float32", "keras_history": history[:3]}
    return {"class_name": "__keras_tensor__", "config": config}


def _modern_node(node: Any) -> Any:
    """Put a call that is given tensors by keyword (attention, initial states) in Keras 3's form: its reader of the old
    form takes them for lists.
    """
    if not isinstance(node, list) or not node or not isinstance(node[0], list) or len(node[0]) < 4:
        return node
    tensors = [_tensor(part) for part in node]
    keywords = {name: _argument(value) for name, value in node[0][3].items()}
    return {"args": [tensors[0] if len(tensors) == 1 else tensors], "kwargs": keywords}
