"""What graph passes share: a copy that may be edited, its constants, its names, and replacing one operator.

The copy shares nothing with the source but the weights' bytes, which are never written to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.core.graph import operator_name, quiet_libraries
from tightship.core.model import Model
from tightship.core.passes import Operator
from tightship.errors import InvalidModel, nearest

if TYPE_CHECKING:
    import onnx_ir

__all__ = [
    "add_constant",
    "add_lazy_constant",
    "all_values",
    "constant",
    "deep_copy",
    "drop_unused",
    "editable",
    "infer_shapes",
    "known_constant",
    "name_everything",
    "refuse_nan",
    "replace",
    "reshape",
    "unknown_exclusions",
    "weight_array",
]

_IR_VERSION_OF_FREE_INITIALIZERS = 4


def editable(model: Model) -> onnx_ir.Model:
    """Return a deep copy of a graph whose initializers are constants: none of them is also an input."""
    from onnx_ir.passes.common import RemoveInitializersFromInputsPass

    graph = deep_copy(model.graph)
    RemoveInitializersFromInputsPass()(graph)
    graph.ir_version = max(graph.ir_version, _IR_VERSION_OF_FREE_INITIALIZERS)
    return graph


def deep_copy(graph: onnx_ir.Model) -> onnx_ir.Model:
    """Copy a graph so that no edit of the copy can be seen in the original."""
    copied = graph.clone(deep_copy=True)
    for value in all_values(copied):
        # onnx_ir's clone shares type objects, and its shape inference writes into them.
        value.type = copy.deepcopy(value.type)
        _own_tensor(value.producer())
    return copied


def all_values(graph: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    """Yield the inputs, initializers and operator outputs of the graph and its subgraphs."""
    for subgraph in graph.graphs():
        yield from subgraph.inputs
        yield from subgraph.initializers.values()
        for node in subgraph:
            yield from node.outputs


def constant(value: onnx_ir.Value | None) -> onnx_ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant operator's output, None for anything else.

    Unlike onnx_ir's own function it does not rename the tensor, which the source may share.
    """
    if value is None:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Constant" and node.domain == "" and "value" in node.attributes:
        return None if node.attributes["value"].is_ref() else node.attributes["value"].as_tensor()
    return value.const_value


def known_constant(value: onnx_ir.Value) -> onnx_ir.TensorProtocol:
    """Return the tensor of a value that was found to be a constant before."""
    tensor = constant(value)
    if tensor is None:
        raise InvalidModel(f"tensor {value.name!r}: expected a constant, found a computed value")
    return tensor


def weight_array(value: onnx_ir.Value) -> np.ndarray:
    """Read a constant as an array in its own type. Raises `InvalidModel` where it holds NaN or infinity."""
    array: np.ndarray = known_constant(value).numpy()
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise InvalidModel(
            f"weight {value.name!r}: expected finite numbers, found NaN or infinity; train or export the model again"
        )
    return array


def refuse_nan(graph: onnx_ir.Model) -> None:
    """Raise `InvalidModel` naming the first initializer that holds NaN (infinity may be meant: attention masks)."""
    for subgraph in graph.graphs():
        for value in subgraph.initializers.values():
            tensor = value.const_value
            if tensor is None or not tensor.dtype.is_floating_point() or not tensor.size:
                continue
            # The minimum is NaN if any element is, and needs no memory of the tensor's size.
            if np.isnan(tensor.numpy().min()):
                raise InvalidModel(
                    f"weight {value.name!r}: expected numbers, found NaN; train or export the model again"
                )


def add_constant(graph: onnx_ir.Model, name: str, array: np.ndarray) -> onnx_ir.Value:
    """Add an initializer called `name`, or `name` with a number behind it where that is taken; return its value."""
    import onnx_ir

    free = _free_name(graph, name)
    return _register(graph, free, onnx_ir.tensor(array, name=free))


def add_lazy_constant(
    graph: onnx_ir.Model,
    name: str,
    dtype: onnx_ir.DataType,
    shape: Sequence[int],
    read: Callable[[], np.ndarray],
) -> onnx_ir.Value:
    """Add an initializer as `add_constant` does, whose array is read each time it is asked for and not kept."""
    import onnx_ir

    free = _free_name(graph, name)

    def tensor() -> onnx_ir.Tensor:
        return onnx_ir.Tensor(np.ascontiguousarray(read()), dtype=dtype, name=free)

    return _register(graph, free, onnx_ir.LazyTensor(tensor, dtype, onnx_ir.Shape(shape), name=free))


def _free_name(graph: onnx_ir.Model, name: str) -> str:
    taken, free, count = graph.graph.initializers, name, 0
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free


def _register(graph: onnx_ir.Model, name: str, tensor: onnx_ir.TensorProtocol) -> onnx_ir.Value:
    import onnx_ir

    value = onnx_ir.Value(name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)
    graph.graph.register_initializer(value)
    return value


def replace(node: onnx_ir.Node, new: Sequence[onnx_ir.Node], outputs: Sequence[onnx_ir.Value]) -> None:
    """Put `new` in the place of `node`, `outputs` in the place of its outputs; drop constants nobody reads any more."""
    import onnx_ir

    read = [value for value in node.inputs if value is not None]
    old = node.outputs[: len(outputs)]
    onnx_ir.convenience.replace_nodes_and_values(node.graph, node, [node], new, old, outputs)
    for value in read:
        drop_unused(value)


def reshape(graph: onnx_ir.Model, value: onnx_ir.Value, shape: Sequence[int], name: str) -> onnx_ir.Node:
    """Return a Reshape of `value`, not yet in the graph; it and its output are called `name`."""
    import onnx_ir

    node = onnx_ir.node("Reshape", [value, add_constant(graph, f"{name}/to", np.array(shape, np.int64))], name=name)
    node.outputs[0].name = name
    return node


def drop_unused(value: onnx_ir.Value) -> None:
    """Remove an initializer, or the operators that compute a value from constants only, if nothing reads it."""
    if value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    node = value.producer()
    if node is None:
        if value.is_initializer():
            value.graph.initializers.pop(value.name)
        return
    if node.op_type in {"Constant", "Transpose"} and node.domain == "":
        read = [source for source in node.inputs if source is not None]
        node.graph.remove(node, safe=True)
        for source in read:
            drop_unused(source)


def infer_shapes(graph: onnx_ir.Model) -> None:
    """Infer shapes and types anew, in place: what exporters wrote may be stale, and is relied upon."""
    from onnx_ir.passes.common import ShapeInferencePass

    for node in graph.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    with quiet_libraries():
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(graph)


def name_everything(graph: onnx_ir.Model) -> None:
    """Give every operator and value a unique name; an operator without one gets that of its first output."""
    from onnx_ir.passes.common import NameFixPass

    NameFixPass(_Names())(graph)


def unknown_exclusions(exclude: Iterable[str], operators: Sequence[Operator]) -> tuple[str, ...]:
    """Return one note per excluded name that no quantizable operator has."""
    known = {operator.name for operator in operators}
    return tuple(
        f"exclude {name!r}: no operator of this name would be changed{nearest(name, known)}"
        for name in exclude
        if name not in known
    )


def _own_tensor(node: onnx_ir.Node | None) -> None:
    """Give a Constant operator a tensor of its own around the same bytes: lifting it to an initializer renames it."""
    import onnx_ir

    if node is None or node.op_type != "Constant" or "value" not in node.attributes:
        return
    shared = node.attributes["value"].as_tensor()
    if shared.dtype == onnx_ir.DataType.STRING:
        own = onnx_ir.StringTensor(shared.string_data(), shape=shared.shape, name=shared.name)
    else:
        own = onnx_ir.Tensor(shared.numpy(), dtype=shared.dtype, shape=shared.shape, name=shared.name)
    node.attributes["value"] = onnx_ir.AttrTensor("value", own)


class _Names:
    def generate_node_name(self, node: Any) -> str:
        return operator_name(node)

    def generate_value_name(self, value: Any) -> str:
        return value.name or "value"
