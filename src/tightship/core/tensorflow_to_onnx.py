"""TensorFlow graphs to ONNX by tf2onnx, with what it lacks added and what it leaves behind cleaned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightship.core.graph import MAX_PROTOBUF_BYTES
from tightship.core.keras_model import serving_function, weight_bytes
from tightship.core.model import Model
from tightship.core.saved_model import OpenedSavedModel, changes_state, modern_signature, open_saved_model
from tightship.core.specs import TensorSpec
from tightship.core.tensorflow_complex import without_complex_numbers
from tightship.core.tensorflow_runtime import quiet_tensorflow, require_tensorflow
from tightship.core.tensorflow_state import open_stateful
from tightship.errors import UnsupportedError, UnsupportedOperators

if TYPE_CHECKING:
    import onnx
    import tensorflow as tf

__all__ = ["OPSET", "keras_to_proto", "saved_model_to_file"]

OPSET = 18
"""The newest that tf2onnx 1.17 writes."""


def keras_to_proto(model: Model) -> onnx.ModelProto:
    """Convert a model of the keras form, with the names and order of its specs.

    Raises `UnsupportedOperators` that lists all that ONNX has no counterpart for, and `UnsupportedError`.
    """
    size = weight_bytes(model)
    if size > MAX_PROTOBUF_BYTES:
        raise UnsupportedError(
            f"weights of {size / 2**30:.1f} GiB do not fit one protobuf message (2 GiB), as tf2onnx needs; "
            "run the model with the tensorflow engine"
        )
    return _finished(_from_function(serving_function(model)), model.inputs, model.outputs)


def saved_model_to_file(folder: Path, path: Path) -> None:
    """Convert the serving signature of a SavedModel into an ONNX file; run it in a child: the source is foreign.

    Variables that a run changes become inputs, and outputs called `.._next`. Raises what `open_saved_model` raises,
    `UnsupportedOperators`, and `UnsupportedError` where the model keeps another kind of state.
    """
    require_tensorflow("reading a SavedModel")
    opened = open_saved_model(folder)
    inputs, outputs = opened.inputs, opened.outputs
    if state := changes_state(opened):
        stateful = open_stateful(folder)
        if stateful is None:
            raise UnsupportedError(
                f"{folder}: it keeps a state between runs ({', '.join(state)}), and not by assigning variables, which "
                "could be inputs and outputs: export it so (stateful=False, return_state=True and initial_state)"
            )
        inputs += tuple(part.input for part in stateful.states)
        outputs += tuple(part.output for part in stateful.states)
        proto = _from_graph(*stateful.pure_graph())
    else:
        proto = _from_signature(folder, opened)
    path.write_bytes(_finished(proto, inputs, outputs).SerializeToString())


def _from_function(function: tf.types.experimental.PolymorphicFunction) -> onnx.ModelProto:
    from tf2onnx import tf_loader

    names = [spec.name for spec in function.input_signature]
    try:
        with quiet_tensorflow():
            concrete = function.get_concrete_function()
            # The inputs end with what the function captured: weights, and constants that are no inputs of the model
            # (tf2onnx.convert.from_function takes those for inputs).
            feeds = dict(zip(names, (tensor.name for tensor in concrete.inputs), strict=False))
            # TensorFlow sorts the outputs of a dict by their keys.
            outputs = zip(sorted(concrete.structured_outputs), concrete.outputs, strict=True)
            fetches = {name: tensor.name for name, tensor in outputs}
            frozen = tf_loader.from_function(concrete, list(feeds.values()), list(fetches.values()))
    except Exception as error:  # layers and TensorFlow raise many types
        raise UnsupportedError(f"TensorFlow cannot trace the model: {_reason(error)}") from error
    return _from_graph(frozen, feeds, fetches)


def _from_signature(folder: Path, opened: OpenedSavedModel) -> onnx.ModelProto:
    """By the modern loader, whose functions keep loops whole, as tf2onnx needs; by the graph where that one fails."""
    with quiet_tensorflow():
        function = modern_signature(folder)
    if function is not None:
        return _from_function(function)
    import tensorflow as tf

    graph, nodes = opened.session.graph, [tensor.partition(":")[0] for tensor in opened.fetches.values()]
    with quiet_tensorflow(), graph.as_default():
        frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
            opened.session, graph.as_graph_def(add_shapes=True), nodes
        )
    return _from_graph(frozen, opened.feeds, opened.fetches)


def _from_graph(frozen: tf.compat.v1.GraphDef, feeds: Mapping[str, str], fetches: Mapping[str, str]) -> onnx.ModelProto:
    import tf2onnx

    frozen = without_complex_numbers(frozen)
    try:
        with quiet_tensorflow():
            proto, _ = tf2onnx.convert.from_graph_def(
                frozen,
                name="model",
                input_names=list(feeds.values()),
                output_names=list(fetches.values()),
                opset=OPSET,
                custom_op_handlers=_handlers(),
                tensors_to_rename={tensor: name for part in (feeds, fetches) for name, tensor in part.items()},
            )
    except Exception as error:  # tf2onnx raises what its parts raise
        raise UnsupportedError(f"tf2onnx cannot convert the model: {_reason(error)}") from error
    return proto


def _handlers() -> dict[str, tuple[Any, list[Any]]]:
    """TensorFlow operators that tf2onnx lacks, in its own words: operator to handler and its arguments."""
    return {"Erfc": (_erfc, [])}


def _erfc(context: Any, node: Any, name: str, arguments: Any) -> None:
    """erfc(x) = 1 - erf(x): Keras' exact GELU is x erfc(-x / sqrt(2)) / 2, which keeps the absolute error of erf."""
    import numpy as np
    from tf2onnx import utils

    output, source = node.output[0], node.input[0]
    shape, dtype = context.get_shape(output), context.get_dtype(output)
    context.remove_node(node.name)
    one = context.make_const(utils.make_name("one"), np.ones((), utils.map_onnx_to_numpy_type(dtype)))
    erf = context.make_node("Erf", [source])
    context.make_node("Sub", [one.output[0], erf.output[0]], outputs=[output], shapes=[shape], dtypes=[dtype])


def _finished(proto: onnx.ModelProto, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """Refuse what is no ONNX, put inputs and outputs in the order of the specs, and drop what tf2onnx noted."""
    _refuse_unknown(proto)
    graph = proto.graph
    for values, specs in ((graph.input, inputs), (graph.output, outputs)):
        by_name = {value.name: value for value in values}
        ordered = [_described(by_name[spec.name], spec) for spec in specs if spec.name in by_name]
        missing = [spec.name for spec in specs if spec.name not in by_name]
        if missing:
            raise UnsupportedError(f"tf2onnx lost {', '.join(missing)}; is each input used and each output computed?")
        del values[:]
        values.extend(ordered)
    del graph.value_info[:]  # shapes of names that tf2onnx made up, some stale
    graph.doc_string = proto.doc_string = ""
    return proto


def _described(value: onnx.ValueInfoProto, spec: TensorSpec) -> onnx.ValueInfoProto:
    import onnx

    described = onnx.ValueInfoProto()
    described.CopyFrom(value)
    dims = described.type.tensor_type.shape.dim
    if len(dims) == len(spec.shape):
        for dim, wanted in zip(dims, spec.shape, strict=True):
            dim.Clear()
            if isinstance(wanted, int):
                dim.dim_value = wanted
            elif wanted != "?":
                dim.dim_param = wanted
    return described


def _refuse_unknown(proto: onnx.ModelProto) -> None:
    """tf2onnx leaves operators that it cannot convert in the graph as they are, and only logs them."""
    import onnx

    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    foreign: dict[str, list[str]] = {}
    for node in _nodes(proto.graph):
        if node.domain not in ("", "ai.onnx") or node.op_type not in known:
            foreign.setdefault(node.op_type, []).append(node.name)
    if foreign:
        listed = ", ".join(f"{kind} ({', '.join(names[:3])})" for kind, names in sorted(foreign.items()))
        raise UnsupportedOperators(
            f"ONNX (opset {OPSET}) has no counterpart for {len(foreign)} TensorFlow operators: {listed}; "
            "build the model without them, or run it with the tensorflow engine"
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _nodes(subgraph)


def _reason(error: BaseException) -> str:
    """The last line of what was raised inside tf.function (the first ones point into code), shortened."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:400]
