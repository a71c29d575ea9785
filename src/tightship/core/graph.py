"""The graph form: from and to bytes, and what its inputs and outputs look like.

Weights of a graph may lie in external data files; `onnx_ir` maps those into memory only when they are touched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tightship.core.model import Model, Step
from tightship.core.specs import TensorSpec
from tightship.errors import InvalidModel

if TYPE_CHECKING:
    import onnx_ir

__all__ = [
    "MAX_PROTOBUF_BYTES",
    "QUANTIZED_BY",
    "from_bytes",
    "from_ir",
    "graph_specs",
    "initializer_bytes",
    "operator_name",
    "quiet_libraries",
    "to_bytes",
    "value_spec",
]

MAX_PROTOBUF_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; a larger model must keep its weights in external data."""

QUANTIZED_BY = "quantized_by"
"""Key in a graph's metadata under which a format says by which method its weights were quantized."""


def from_ir(graph: onnx_ir.Model, history: tuple[Step, ...] = ()) -> Model:
    """Wrap an `onnx_ir.Model` as a Model of the graph form."""
    inputs, outputs = graph_specs(graph)
    return Model("graph", graph, inputs, outputs, history)


def from_bytes(data: bytes) -> Model:
    """Parse serialized ONNX. Raises `InvalidModel` where the bytes are no ONNX model."""
    import onnx
    import onnx_ir

    try:
        return from_ir(onnx_ir.from_proto(onnx.load_from_string(data)))
    except Exception as error:  # protobuf and onnx_ir raise many types on foreign bytes
        raise InvalidModel(f"these {len(data)} bytes are no ONNX model: {error}") from error


def to_bytes(model: Model) -> bytes:
    """Serialize a graph with all weights inside. Raises `InvalidModel` above protobuf's limit of 2 GiB."""
    import onnx_ir

    size = initializer_bytes(model.graph)
    if size > MAX_PROTOBUF_BYTES:
        raise InvalidModel(f"weights of {size / 2**30:.1f} GiB do not fit one protobuf message (2 GiB)")
    graph = onnx_ir.external_data.load_to_model(model.graph.clone()) if _has_external(model.graph) else model.graph
    proto = onnx_ir.to_proto(graph)
    # onnx_ir describes weights a second time, in value_info, where tools that transpose one (onnxruntime.quantization)
    # then find its old shape.
    described = [info for info in proto.graph.value_info if info.name not in graph.graph.initializers]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(described)
    data: bytes = proto.SerializeToString()
    return data


def graph_specs(graph: onnx_ir.Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the specs of the true inputs (initializers left out) and of the outputs."""
    initializers = graph.graph.initializers
    inputs = tuple(value_spec(value) for value in graph.graph.inputs if value.name not in initializers)
    return inputs, tuple(value_spec(value) for value in graph.graph.outputs)


def operator_name(node: onnx_ir.Node) -> str:
    """Return how reports, recipes and errors call a node: its name, or that of its first output where it has none."""
    return node.name or next((value.name for value in node.outputs if value.name), "") or node.op_type


def value_spec(value: onnx_ir.Value) -> TensorSpec:
    """Describe a graph value; an unknown type is `unknown`, an unknown rank an empty shape."""
    dims = tuple(dim if isinstance(dim, int) else (dim.value or "?") for dim in value.shape or ())
    return TensorSpec(value.name or "", _dtype_name(value), dims)


def initializer_bytes(graph: onnx_ir.Model) -> int:
    """Bytes of all weights, those of subgraphs too."""
    return sum(
        value.const_value.nbytes
        for subgraph in graph.graphs()
        for value in subgraph.initializers.values()
        if value.const_value is not None
    )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what onnx_ir and onnxscript log away from the user; what matters of it is told by notes and errors."""
    logs = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _has_external(graph: onnx_ir.Model) -> bool:
    import onnx_ir

    return any(
        isinstance(value.const_value, onnx_ir.ExternalTensor)
        for subgraph in graph.graphs()
        for value in subgraph.initializers.values()
    )


def _dtype_name(value: onnx_ir.Value) -> str:
    import onnx_ir

    if value.dtype is None:
        return "unknown"
    if value.dtype == onnx_ir.DataType.STRING:
        return "str"
    return str(value.dtype.numpy())
