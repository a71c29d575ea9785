"""What an operator is given to build with: layers named after its node, weights, and operands that fit each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tightship.bridges.onnx_to_keras.layout import (
    arrange,
    image_axes,
    like,
    plain,
    positions,
    straight_axes,
)
from tightship.bridges.onnx_to_keras.names import Names
from tightship.bridges.onnx_to_keras.values import Axes, Tensor, Unsupported, rank_of
from tightship.core.graph import operator_name

if TYPE_CHECKING:
    import onnx_ir
    from keras import KerasTensor

__all__ = ["Build", "Ground", "Runner"]

WEIGHT_ELEMENTS = 32
"""Float constants of at least this many elements become weights, which can be trained; smaller ones stay numbers."""

NUMBER_ELEMENTS = 4096
"""Other constants of more elements are kept as weights too: numbers are written into the model's JSON."""


class Ground:
    """What all nodes of one conversion share: the names handed out, and a zero that weights without inputs hang on."""

    def __init__(self, inputs: Sequence[KerasTensor]) -> None:
        self.names = Names()
        self.inputs = inputs
        self._zero: KerasTensor | None = None
        self._named: dict[int, Any] = {}

    @property
    def zero(self) -> KerasTensor:
        """`[0]`, computed from an input: Keras' functional models hold only what depends on inputs."""
        if self._zero is None:
            from keras import ops

            if not self.inputs:
                raise Unsupported("a Keras model needs an input")
            source = next((tensor for tensor in self.inputs if 0 not in tensor.shape), self.inputs[0])
            self._zero = ops.zeros_like(ops.reshape(source, (-1,))[(slice(0, 1),)], dtype="int32")
            self.name_operations([self._zero], "zero")
        return self._zero

    def name_operations(self, tensors: Sequence[KerasTensor], name: str) -> None:
        """Name the operations after the node that needed them: Keras' own names could be those of inputs or layers."""
        from keras import Layer

        pending = list(tensors)
        while pending:
            operation = pending.pop()._keras_history.operation
            if id(operation) in self._named:
                continue
            self._named[id(operation)] = operation
            if not isinstance(operation, Layer):
                operation.name = self.names.new(name)
            pending.extend(tensor for node in operation._inbound_nodes for tensor in node.input_tensors)


class Runner(Protocol):
    """Builds subgraphs: the walk through the graph."""

    def inner(self, graph: onnx_ir.Graph, inputs: Sequence[Any]) -> list[Any]: ...


class Build:
    """Builds the Keras side of one node."""

    def __init__(self, node: onnx_ir.Node, ground: Ground, opset: int, runner: Runner | None = None) -> None:
        self.node = node
        self.ground = ground
        self.opset = opset
        self._runner = runner
        self.name = operator_name(node)

    def run(self, graph: onnx_ir.Graph, inputs: Sequence[Any]) -> list[Any]:
        """Build a subgraph of the node on inputs and return its outputs."""
        if self._runner is None:
            raise TypeError("only nodes that are being built can run subgraphs")
        return self._runner.inner(graph, inputs)

    @property
    def n_outputs(self) -> int:
        """Number of outputs up to the last one that has a name."""
        named = [index for index, value in enumerate(self.node.outputs) if value.name]
        return named[-1] + 1 if named else 0

    def wants(self, index: int) -> bool:
        """Whether output `index` is read by another node or is an output of the graph."""
        outputs = self.node.outputs
        return index < len(outputs) and bool(outputs[index].uses() or outputs[index].is_graph_output())

    def symbols(self, index: int = 0) -> tuple[str | None, ...]:
        """Names that the graph gives to the free axes of input `index`; empty where it tells no shape."""
        value = self.node.inputs[index]
        if value is None or value.shape is None:
            return ()
        return tuple(None if isinstance(dim, int) else dim.value for dim in value.shape)

    def layer(
        self, kind: type[Any], x: Any, weights: Sequence[np.ndarray] | None = None, suffix: str = "", **config: Any
    ) -> Any:
        """Call a new layer of this kind, named after the node, on `x`, and give it its weights."""
        first = x[0] if isinstance(x, list | tuple) else x
        # A layer for integers keeps their type, whatever type its weights would have.
        config.setdefault("dtype", str(first.dtype) if "float" in str(first.dtype) else "float32")
        layer = kind(name=self.ground.names.new(self.name + suffix), **config)
        result = layer(x)
        if weights is not None:
            layer.set_weights(list(weights))
        return result

    def constant(self, array: np.ndarray) -> Any:
        """Return what may be used beside tensors: the array where it is small, else a weight."""
        is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        limit = WEIGHT_ELEMENTS - 1 if is_float else NUMBER_ELEMENTS
        return np.array(array) if array.size <= limit else self.weight(array)

    def weight(self, array: np.ndarray) -> KerasTensor:
        """Return the array as the weight of an Embedding with a single entry, of which floats can be trained."""
        from keras import layers, ops

        flat = np.array(array).reshape(1, -1)
        kind = flat.dtype.kind
        carrier = str(flat.dtype) if kind == "f" or flat.dtype.name == "bfloat16" else "float64"
        if carrier != str(flat.dtype) and not np.array_equal(flat.astype(carrier).astype(flat.dtype), flat):
            raise Unsupported(f"a constant of {flat.size} integers beyond 2**53")
        table = self.layer(
            layers.Embedding,
            self.ground.zero,
            [flat.astype(carrier)],
            suffix="_weight",
            input_dim=1,
            output_dim=flat.size,
            embeddings_initializer="zeros",
            trainable=carrier == str(flat.dtype),
            dtype=carrier,
        )
        if carrier != str(flat.dtype):
            table = ops.cast(table, str(flat.dtype))
        return ops.reshape(table, array.shape)

    def tensor(self, value: Tensor | np.ndarray) -> Tensor:
        """Return a tensor, also for a constant."""
        if isinstance(value, Tensor):
            return value
        from keras import ops

        if value.size > NUMBER_ELEMENTS:
            return like(self.weight(value))
        zero = ops.cast(self.ground.zero, str(value.dtype))
        shape = (1,) * max(value.ndim, 1)
        if value.dtype == np.bool_:
            result = ops.logical_or(ops.reshape(zero, shape), value)
        else:
            result = ops.add(ops.reshape(zero, shape), value)
        return like(ops.reshape(result, ()) if value.ndim == 0 else result)

    def straight(self, *values: Tensor | np.ndarray) -> list[Any]:
        """Return operands in the graph's order of axes."""
        return [plain(value) if isinstance(value, Tensor) else self.constant(value) for value in values]

    def aligned(self, *values: Tensor | np.ndarray) -> tuple[list[Any], Axes]:
        """Return operands in one order of axes, so that they broadcast as the graph's values do, and that order."""
        rank = max(rank_of(value) for value in values)
        axes = _common_axes([value for value in values if isinstance(value, Tensor) and value.rank == rank], rank)
        return [self._aligned(value, rank, axes) for value in values], axes

    def _aligned(self, value: Tensor | np.ndarray, rank: int, axes: Axes) -> Any:
        if isinstance(value, np.ndarray):
            if value.size == 1 and rank:
                return value.reshape((1,))
            shaped = value.reshape((1,) * (rank - value.ndim) + value.shape).transpose(positions(axes))
            leading = next((index for index, length in enumerate(shaped.shape) if length != 1), 0)
            return self.constant(shaped.reshape(shaped.shape[leading:]))
        if value.rank == rank:
            return arrange(value, axes)
        return plain(value) if axes == straight_axes(rank) else arrange(self._raised(value, rank), axes)

    def _raised(self, value: Tensor, rank: int) -> Tensor:
        from keras import ops

        missing = rank - value.rank
        raised = ops.expand_dims(plain(value), tuple(range(missing)))
        return like(raised)


def _common_axes(tensors: Sequence[Tensor], rank: int) -> Axes:
    """Choose the order that channels-last tensors have, else the one of the first tensor."""
    orders = [tensor.axes for tensor in tensors]
    if not orders or image_axes(rank) in orders:
        return image_axes(rank) if orders else straight_axes(rank)
    return orders[0] if all(order == orders[0] for order in orders) else straight_axes(rank)
