"""ONNX graphs to Keras: a functional model of native layers and `keras.ops`, which loads without tightship."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.bridges.onnx_to_keras.build import Build, Ground
from tightship.bridges.onnx_to_keras.layout import like, plain
from tightship.bridges.onnx_to_keras.names import clean
from tightship.bridges.onnx_to_keras.values import LACKING, Numbers, Tensor, Unsupported
from tightship.core.keras_model import from_keras
from tightship.core.model import Model, Step
from tightship.core.progress import SILENT, Progress
from tightship.core.specs import TensorSpec
from tightship.core.tensorflow_runtime import require_keras
from tightship.errors import UnsupportedError, UnsupportedOperators

if TYPE_CHECKING:
    import keras
    import onnx_ir

    from tightship.bridges.onnx_to_keras.walk import Problem, Walk

__all__ = ["to_keras"]

_MOST_NODES_NAMED = 5


def to_keras(model: Model, progress: Progress = SILENT) -> Model:
    """Convert a graph to a functional Keras model with the same names, shapes and types of inputs and outputs.

    Outputs are a dict by name; inputs are fed in the graph's order or as a dict by name, in which `/` is written `_`.
    Convolutions are channels-last inside. Weights that are constants of the graph become weights of layers, which are
    named after the nodes.
    Raises `UnsupportedOperators`, which lists all nodes that Keras cannot express, and `UnsupportedError` where an
    input or output has a type that Keras lacks.
    """
    require_keras("converting to Keras")
    with progress.step("converting ONNX to Keras"):
        content = _converted(model)
    converted = from_keras(content, (*model.history, Step("onnx-to-keras")))
    return replace(
        converted, inputs=_named(converted.inputs, model.inputs), outputs=_named(converted.outputs, model.outputs)
    )


def _named(found: Sequence[TensorSpec], graph: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Take the names of free axes from the graph, where Keras found the same rank."""
    known = {input_name(spec.name): spec.shape for spec in graph} | {spec.name: spec.shape for spec in graph}
    return tuple(
        replace(spec, shape=known[spec.name]) if len(known.get(spec.name, ())) == len(spec.shape) else spec
        for spec in found
    )


def input_name(name: str) -> str:
    """Return the name of an input as Keras takes it: without `/`."""
    return name.replace("/", "_").strip("_") or "input"


def _converted(model: Model) -> keras.Model:
    import keras

    from tightship.bridges.onnx_to_keras import operators
    from tightship.bridges.onnx_to_keras.walk import Walk

    operators.load()
    source = _prepared(model.graph)
    inputs = _inputs(source.graph)
    ground = Ground(list(inputs.values()))
    for tensor in inputs.values():
        ground.names.new(tensor.name)
    walk = Walk(ground, source.opset_imports)
    walk.values.update({value: like(tensor) for value, tensor in inputs.items()})
    try:
        walk.run(source.graph)
        _refuse(walk.problems)
        outputs = _outputs(source.graph, walk)
    except Unsupported as error:
        raise UnsupportedError(f"the graph cannot be told in Keras: {error}") from error
    return keras.Model(list(inputs.values()), outputs, name=clean(source.graph.name or "model", "model"))


def _prepared(source: onnx_ir.Model) -> onnx_ir.Model:
    """Return a copy without functions, with the names of free lengths where inference finds them."""
    from onnx_ir.passes import common

    copy = source.clone()
    common.InlinePass()(copy)
    with contextlib.suppress(Exception):  # inference is of use here, never needed
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    return copy


def _inputs(graph: onnx_ir.Graph) -> dict[onnx_ir.Value, Any]:
    import keras

    names: set[str] = set()
    inputs = {}
    for value in graph.inputs:
        if value.name in graph.initializers:
            continue
        dtype = _keras_type(value)
        if value.shape is None:
            raise UnsupportedError(f"input {value.name}: its rank is not known; Keras needs it")
        shape = tuple(dim if isinstance(dim, int) else None for dim in value.shape)
        name = input_name(value.name or "input")
        while name in names:
            name += "_"
        names.add(name)
        inputs[value] = keras.Input(batch_shape=shape, dtype=dtype, name=name)
    return inputs


def _keras_type(value: onnx_ir.Value) -> str:
    import onnx_ir

    if not isinstance(value.type, onnx_ir.TensorType | None):
        raise UnsupportedError(f"input {value.name}: Keras has no inputs of type {value.type}, only tensors")
    if value.dtype is None:
        raise UnsupportedError(f"input {value.name}: its element type is not known")
    if value.dtype.name in LACKING:
        raise UnsupportedError(f"input {value.name}: Keras has no element type {value.dtype.name.lower()}")
    return str(value.dtype.numpy())


def _outputs(graph: onnx_ir.Graph, walk: Walk) -> dict[str, Any]:
    """Return the outputs by name, in the graph's order of axes; each its own tensor, which depends on an input."""
    from keras import ops

    outputs: dict[str, Any] = {}
    inputs = {id(tensor) for tensor in walk.ground.inputs}
    for value in graph.outputs:
        found = walk.value(value)
        if isinstance(found, Numbers | np.ndarray | np.generic):
            found = _computed(np.asarray(found) if isinstance(found, np.generic) else found, value, walk)
        if not isinstance(found, Tensor):
            raise UnsupportedError(f"output {value.name}: Keras has no outputs that are sequences or empty optionals")
        tensor = plain(found)
        if id(tensor) in inputs or any(tensor is other for other in outputs.values()):
            tensor = ops.copy(tensor)
        walk.ground.name_operations([tensor], f"{value.name}_output")
        outputs[value.name or ""] = tensor
    return outputs


def _computed(found: Numbers | np.ndarray, value: onnx_ir.Value, walk: Walk) -> Tensor:
    import onnx_ir

    from tightship.bridges.onnx_to_keras.shapes import as_tensor

    node = value.producer() or onnx_ir.node("Constant", [], name=value.name)
    build = Build(node, walk.ground, 0, walk)
    return as_tensor(found, build) if isinstance(found, Numbers) else build.tensor(found)


def _refuse(problems: Sequence[Problem]) -> None:
    if not problems:
        return
    nodes: dict[tuple[str, str], list[str]] = {}
    for operator, node, reason in problems:
        nodes.setdefault((operator, reason), []).append(node)
    lines = [f"{operator} ({_listed(found)}): {reason}" for (operator, reason), found in nodes.items()]
    count = len({operator for operator, _, _ in problems})
    raise UnsupportedOperators(
        f"Keras has no counterpart for {count} operator{'s' if count > 1 else ''} of the model:\n  "
        + "\n  ".join(lines)
        + "\nRun the ONNX model with the onnxruntime or openvino engine, or convert it to PyTorch"
    )


def _listed(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - _MOST_NODES_NAMED} more" if len(nodes) > _MOST_NODES_NAMED else ""
    return f"node{'s' if len(nodes) > 1 else ''} {', '.join(nodes[:_MOST_NODES_NAMED])}{more}"
