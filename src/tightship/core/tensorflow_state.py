"""SavedModels that keep a state between runs, with the state as inputs and outputs: `f(x, s) -> y, next s`.

A state is a variable that the serving signature assigns. Reading it becomes an input, what is assigned an output; all
other variables are constants. The functions that it calls are inlined by TensorFlow's own freezing, whose parts are
used here one by one since it freezes all variables or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.core.saved_model import modern_signature
from tightship.core.specs import TensorSpec
from tightship.core.tensorflow_runtime import quiet_tensorflow
from tightship.errors import UnsupportedError

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["State", "StatefulFunction", "open_stateful"]

_PASSING = ("Identity", "StopGradient")
NEXT = "_next"


@dataclass(frozen=True)
class State:
    """A variable that a run changes: its name as an input, and with `_next` as an output."""

    name: str
    variable: Any
    placeholder: str

    @property
    def input(self) -> TensorSpec:
        return TensorSpec(self.name, self.variable.dtype.name, tuple(self.variable.shape))

    @property
    def output(self) -> TensorSpec:
        return TensorSpec(f"{self.name}{NEXT}", self.variable.dtype.name, tuple(self.variable.shape))


@dataclass(frozen=True)
class StatefulFunction:
    """A serving signature as a concrete function, its states, and its inlined graph in which only these are free."""

    function: Any
    states: tuple[State, ...]
    inlined: Any

    def pure_graph(self) -> tuple[tf.compat.v1.GraphDef, dict[str, str], dict[str, str]]:
        """Return the graph, and the names of its tensors by those of inputs and of outputs."""
        graph, names = self.inlined, _Names(self.inlined)
        free = {state.placeholder: state for state in self.states}
        fetches = dict(self._outputs())
        for node in graph.node:
            state = free.get(names.origin(node.input[0])) if node.op in _TOUCHING and node.input else None
            if state is None:
                continue
            if node.op == "AssignVariableOp":
                fetches[state.output.name] = _tensor(node.input[1])
            elif names.comes_after(node, state.placeholder):
                raise UnsupportedError(f"the state {state.name} is read after it was written in the same run")
        _edit(graph, names, free)
        feeds = {state.name: f"{state.name}:0" for state in self.states} | dict(self._inputs())
        return graph, feeds, fetches

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once from the state that the variables hold, and leave in them what it becomes."""
        import tensorflow as tf

        found = self.function(*(tf.constant(inputs[name]) for name, _ in self._inputs()))
        return {name: np.array(tensor.numpy()) for name, tensor in found.items()}

    def _inputs(self) -> Iterator[tuple[str, str]]:
        for tensor in self.function.inputs:
            if tensor.dtype.name != "resource":
                yield tensor.name.partition(":")[0], tensor.name

    def _outputs(self) -> Iterator[tuple[str, str]]:
        for name, tensor in zip(sorted(self.function.structured_outputs), self.function.outputs, strict=True):
            yield name, tensor.name


_TOUCHING = ("ReadVariableOp", "AssignVariableOp")


def open_stateful(folder: Path) -> StatefulFunction | None:
    """Open a folder that `open_saved_model` has judged; None where the modern loader fails or no variable changes.

    Raises `UnsupportedError` where TensorFlow cannot inline what is called.
    """
    from tensorflow.python.framework import convert_to_constants

    with quiet_tensorflow():
        signature = modern_signature(folder)
        if signature is None:
            return None
        function = signature.get_concrete_function()
        try:
            data = convert_to_constants._FunctionConverterDataInEager(
                func=function, lower_control_flow=False, aggressive_inlining=True
            )
            states = tuple(_states(function, data.graph_def))
            for state in states:
                data.tensor_data.pop(state.placeholder, None)
            inlined, _ = convert_to_constants._replace_variables_by_constants(converter_data=data)
        except Exception as error:  # grappler raises what its parts raise
            raise UnsupportedError(f"{folder}: TensorFlow cannot inline the model: {str(error)[:300]}") from error
    return StatefulFunction(function, states, inlined) if states else None


def _states(function: Any, graph: tf.compat.v1.GraphDef) -> Iterator[State]:
    """The variables that are assigned, in the order in which the function captured them."""
    names = _Names(graph)
    assigned = {names.origin(node.input[0]) for node in graph.node if node.op == "AssignVariableOp"}
    variables = {id(variable.handle): variable for variable in function.graph.variables}
    seen: Counter[str] = Counter()
    for outer, inner in function.graph.captures:
        placeholder = inner.name.partition(":")[0]
        if placeholder in assigned and id(outer) in variables:
            variable = variables[id(outer)]
            owner = variable.name.partition(":")[0].rpartition("/")[0].replace("/", "_") or "model"
            yield State(f"{owner}_state_{seen[owner]}", variable, placeholder)
            seen[owner] += 1


class _Names:
    """Nodes by name, and where a resource comes from."""

    def __init__(self, graph: tf.compat.v1.GraphDef) -> None:
        self.nodes = {node.name: node for node in graph.node}

    def origin(self, tensor: str) -> str:
        """The node that a tensor is handed on from, through identities."""
        name = _node(tensor)
        while (node := self.nodes.get(name)) is not None and node.op in _PASSING:
            name = _node(node.input[0])
        return name

    def comes_after(self, reader: Any, placeholder: str) -> bool:
        """Whether a node runs after the state was assigned."""
        pending, seen = [_node(name) for name in reader.input], set()
        while pending:
            name = pending.pop()
            node = self.nodes.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if node.op == "AssignVariableOp" and self.origin(node.input[0]) == placeholder:
                return True
            pending += [_node(other) for other in node.input]
        return False


def _edit(graph: tf.compat.v1.GraphDef, names: _Names, free: dict[str, State]) -> None:
    """Replace the reading of states by placeholders, in place, and drop what assigns them."""
    import tensorflow as tf

    kept = []
    for node in graph.node:
        state = free.get(names.origin(node.input[0])) if node.op in _TOUCHING and node.input else None
        if state is None:
            kept.append(tf.compat.v1.NodeDef.FromString(node.SerializeToString()))
        elif node.op == "ReadVariableOp":
            read = tf.compat.v1.NodeDef(name=node.name, op="Identity", input=[state.name])
            read.attr["T"].CopyFrom(node.attr["dtype"])
            kept.append(read)
    gone = {node.name for node in graph.node} - {node.name for node in kept}
    for node in kept:
        inputs = [name for name in node.input if _node(name) not in gone]
        del node.input[:]
        node.input.extend(inputs)
    for state in free.values():
        placeholder = tf.compat.v1.NodeDef(name=state.name, op="Placeholder")
        placeholder.attr["dtype"].type = state.variable.dtype.as_datatype_enum
        placeholder.attr["shape"].shape.CopyFrom(state.variable.shape.as_proto())
        kept.append(placeholder)
    del graph.node[:]
    graph.node.extend(kept)


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"
