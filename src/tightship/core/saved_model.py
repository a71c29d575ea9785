"""SavedModel folders: written from Keras models, and opened as a session of their serving signature.

They are opened through the graph loader (`tf.compat.v1`): it loads what TensorFlow 1 and 2 wrote, models whose Python
objects the modern loader cannot restore too, and gives each session threads of its own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightship.core.keras_model import BATCH, is_channels_first, serving_function
from tightship.core.model import Model
from tightship.core.specs import Dim, TensorSpec
from tightship.core.tensorflow_runtime import quiet_tensorflow
from tightship.errors import InvalidModel, UnsupportedError, UnsupportedOperators

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "SIGNATURE",
    "OpenedSavedModel",
    "changes_state",
    "is_saved_model",
    "modern_signature",
    "open_saved_model",
    "write_saved_model",
]

SIGNATURE = "serving_default"
_TAG = "serve"
_FILE = "saved_model.pb"
_MAX_GRAPH_BYTES = 2**31 - 1  # a protobuf message ends there

# Operators that read or write files that the graph names, talk to others or call Python. A model needs none of them to
# compute; restoring its weights and filling its tables from its own assets is the loader's work and judged apart.
_REACHING_OUT = re.compile(
    r"(Read|Write)File|MatchingFiles|(Eager)?PyFunc(Stateless)?|Save(V2|Slices)?|MergeV2Checkpoints|ShardedFilenames?"
    r"|\w*Reader(V2)?|\w*Dataset\w*|\w*Summary\w*|Debug\w*|\w*Rpc\w*|PrintV?2?|DecodeVideo|_?(Host)?(Send|Recv)"
)
_CHANGING = re.compile(r"Assign\w*|Resource(Scatter|Apply)\w*|Scatter(Add|Sub|Update|Nd\w*Update)|Stack\w*PushV?2?")
_RESTORING = re.compile(r"Restore(V2|Slice)?")
_FILLING = re.compile(r"InitializeTableFromTextFile(V2)?")


@dataclass(frozen=True)
class OpenedSavedModel:
    """A `tf.compat.v1.Session` with the weights loaded; `feeds` and `fetches` are tensor names by input and output."""

    session: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    feeds: Mapping[str, str]
    fetches: Mapping[str, str]


def is_saved_model(path: Path) -> bool:
    """Whether `path` is a folder as TensorFlow saves a model."""
    return (path / _FILE).is_file()


def write_saved_model(model: Model, folder: Path) -> None:
    """Write a model of the keras form with its own names of inputs and outputs; `folder` must not exist.

    Raises `UnsupportedError` where TensorFlow cannot trace it.
    """
    try:
        with quiet_tensorflow():
            _save(model, folder)
    except OSError:
        raise
    except Exception as error:  # layers may raise anything while they are traced
        raise UnsupportedError(f"TensorFlow cannot save the model as a SavedModel: {_reason(error)}") from error


def _save(model: Model, folder: Path) -> None:
    import keras
    import tensorflow as tf

    function = serving_function(model, compiled=is_channels_first(model))
    # Keras' archive keeps tables of strings too, but traces everything twice: three times the seconds and the bytes.
    module = tf.Module()
    module.weights = [variable.value for variable in model.content.variables]
    try:
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: function})
    except AssertionError:  # what TensorFlow raises where the function uses a resource that is no variable
        shutil.rmtree(folder, ignore_errors=True)
        archive = keras.export.ExportArchive()
        archive.track(model.content)
        archive.add_endpoint(SIGNATURE, function)
        archive.write_out(str(folder), verbose=False)


def open_saved_model(folder: Path, threads: int = 0) -> OpenedSavedModel:
    """Load the serving signature of a SavedModel; `threads` 0 leaves their number to TensorFlow.

    Raises `InvalidModel` where it is damaged or has no such signature, and `UnsupportedError` where its graph reads or
    writes files, calls Python, or has operators that TensorFlow does not know.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    description = _read(folder)
    _check(folder, description)
    config = v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1, use_per_session_threads=True
    )
    with quiet_tensorflow():
        session = v1.Session(graph=tf.Graph(), config=config)
        try:
            with session.graph.as_default():
                loaded = v1.saved_model.load(session, [_TAG], str(folder))
            return _opened(session, loaded.signature_def[SIGNATURE])
        except Exception as error:  # TensorFlow and protobuf raise many types on foreign files
            session.close()
            raise InvalidModel(f"{folder}: TensorFlow cannot load it: {_reason(error)}") from error


def changes_state(opened: OpenedSavedModel) -> list[str]:
    """Types of the operators by which a run changes what the next one gives; empty for a plain model."""
    used = _Graph(opened.session.graph.as_graph_def()).reachable(opened.fetches.values())
    return sorted(op for op in used if _CHANGING.fullmatch(op))


def modern_signature(folder: Path) -> tf.types.experimental.PolymorphicFunction | None:
    """Return the serving signature as a `tf.function` of positional tensors in the order of their names.

    None where the modern loader cannot restore it; call it only after `open_saved_model` has judged the folder.
    """
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(folder), tags=[_TAG])
        signature = loaded.signatures[SIGNATURE]
    except Exception:  # Python objects of older versions, as optimizer slots: many types
        return None
    specs = dict(sorted(signature.structured_input_signature[1].items()))

    def call(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        _ = loaded  # its variables live as long as it does
        found = signature(**dict(zip(specs, tensors, strict=True)))
        return {name: tf.identity(tensor) for name, tensor in found.items()}

    named = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()]
    return tf.function(call, input_signature=named, autograph=False)


def _opened(session: Any, signature: Any) -> OpenedSavedModel:
    inputs, outputs = sorted(signature.inputs.items()), sorted(signature.outputs.items())
    return OpenedSavedModel(
        session,
        tuple(_spec(name, info) for name, info in inputs),
        tuple(_spec(name, info) for name, info in outputs),
        {name: info.name for name, info in inputs},
        {name: info.name for name, info in outputs},
    )


def _spec(name: str, info: Any) -> TensorSpec:
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(info.dtype).name
    shape: tuple[Dim, ...] = tuple(
        dim.size if dim.size >= 0 else BATCH if axis == 0 else "?" for axis, dim in enumerate(info.tensor_shape.dim)
    )
    return TensorSpec(name, "str" if dtype == "string" else dtype, shape)


def _read(folder: Path) -> Any:
    """The description of the graph that serves."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / _FILE
    try:
        if path.stat().st_size > _MAX_GRAPH_BYTES:
            raise InvalidModel(f"{path}: larger than 2 GiB; no SavedModel is")
        saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read: {error.strerror}") from error
    except InvalidModel:
        raise
    except Exception as error:  # protobuf's DecodeError
        raise InvalidModel(f"{path}: not a SavedModel, or cut short: {_reason(error)}") from error
    graphs = [graph for graph in saved.meta_graphs if _TAG in graph.meta_info_def.tags]
    if not graphs or not graphs[0].signature_def[SIGNATURE].outputs:
        found = ", ".join(
            sorted(key for graph in graphs for key, value in graph.signature_def.items() if value.outputs)
        )
        raise InvalidModel(
            f"{folder}: expected the signature {SIGNATURE!r} under the tag {_TAG!r}, found {found or 'none'}; "
            "save it again with model.export(folder)"
        )
    return graphs[0]


def _check(folder: Path, description: Any) -> None:
    """Raise where what runs when the model is loaded or used does more than compute."""
    from tensorflow.python.framework import op_def_registry

    signature = description.signature_def[SIGNATURE]
    graph = _Graph(description.graph_def)
    used = graph.reachable(info.name for info in signature.outputs.values())
    filling = graph.reachable(_initializers(description))
    restoring = graph.reachable([description.saver_def.restore_op_name])
    suspect = {op for op in used | filling | restoring if _REACHING_OUT.fullmatch(op)}
    suspect |= {op for op in used | filling if _RESTORING.fullmatch(op)}
    suspect |= {op for op in used | restoring if _FILLING.fullmatch(op)}
    if suspect:
        raise UnsupportedError(
            f"{folder}: its graph holds operators that read or write files, call Python or print: "
            f"{', '.join(sorted(suspect))}; tightship does not run them: export the model without them"
        )
    unknown = sorted(
        op for op in used | filling | restoring if op not in graph.functions and op_def_registry.get(op) is None
    )
    if unknown:
        raise UnsupportedOperators(
            f"{folder}: {len(unknown)} operators are not TensorFlow's own: {', '.join(unknown)}; "
            "tightship loads no libraries of custom operators"
        )


def _initializers(description: Any) -> Iterator[str]:
    """Names of the operators that the loader runs once the weights are there."""
    for key in ("saved_model_main_op", "legacy_init_op"):
        yield from description.collection_def[key].node_list.value
    for info in description.signature_def["__saved_model_init_op"].outputs.values():
        yield info.name


class _Graph:
    """Which operators run where a node does: those that lead to it, and the functions that they call."""

    def __init__(self, graph_def: tf.compat.v1.GraphDef) -> None:
        self.nodes = {node.name: node for node in graph_def.node}
        self.functions = {function.signature.name: function for function in graph_def.library.function}

    def reachable(self, names: Iterable[str]) -> set[str]:
        """Types of all operators that run where the named nodes do."""
        nodes = self._upstream(names)
        operators = {node.op for node in nodes}
        pending = [name for node in nodes for name in _function_names(node)]
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in self.functions and name not in seen:
                seen.add(name)
                for node in self.functions[name].node_def:
                    operators.add(node.op)
                    pending += _function_names(node)
        return operators

    def _upstream(self, names: Iterable[str]) -> list[Any]:
        pending = [_node_name(name) for name in names if name]
        found: dict[str, Any] = {}
        while pending:
            node = self.nodes.get(pending.pop())
            if node is not None and node.name not in found:
                found[node.name] = node
                pending += map(_node_name, node.input)
        return list(found.values())


def _function_names(node: Any) -> list[str]:
    """Functions that a node may call: its own type, and those among its attributes."""
    names = [node.op]
    for value in node.attr.values():
        names += [value.func.name, *(function.name for function in value.list.func)]
    return [name for name in names if name]


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _reason(error: BaseException) -> str:
    """The first paragraph of what TensorFlow says, as one line."""
    return " ".join(str(error).strip().partition("\n\n")[0].split())[:400] or type(error).__name__
