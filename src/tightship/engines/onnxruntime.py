"""ONNX Runtime: the engine of the base install."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tightship.core import processor
from tightship.core.model import Form, Model
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.core.target import Precision, Target
from tightship.engines.engine import Engine
from tightship.errors import EngineError

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["OnnxRuntime"]

_LEAST_SHARED_BYTES = 1024
_SHARED_DTYPES = frozenset({"FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64"})
"""Weights of these types and sizes are handed to a session where they lie in memory, or in the mapped file."""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(string)": "str",
    "tensor(bool)": "bool",
}


class OnnxRuntime(Engine):
    """ONNX models on ONNX Runtime's CPU provider."""

    name: ClassVar[str] = "onnxruntime"
    module: ClassVar[str] = "onnxruntime"
    form: ClassVar[Form] = "graph"
    gives: ClassVar[str] = "ONNX models, int8 and 2/4/8-bit weights on the CPU"

    def precisions(self) -> tuple[Precision, ...]:
        return ("f32",)

    def open(self, source: Model | Path | bytes, target: Target, *, without: Sequence[str] = ()) -> _OrtSession:
        """Load a model, leaving out the graph optimizers named in `without`."""
        if target.precision not in self.precisions():
            raise EngineError(f"onnxruntime runs float operators in f32 only, found {target.precision}")
        return _OrtSession(source, target, without)


class _OrtSession:
    def __init__(self, source: Model | Path | bytes, target: Target, without: Sequence[str]) -> None:
        import onnxruntime as ort

        self.target = target
        options = _options(target)
        loadable, self._weights = _loadable(source)
        options.add_external_initializers(list(self._weights), list(self._weights.values()))
        try:
            self._session: Any = ort.InferenceSession(
                loadable, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
            )
        except Exception as error:  # onnxruntime's exceptions share no base below Exception
            raise EngineError(f"onnxruntime cannot open the model: {_first_line(error)}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        # `InferenceSession.run` looks at every input in Python before it calls this: as much work as a tiny model is.
        self._run: Any = getattr(getattr(self._session, "_sess", None), "run", None) or self._session.run

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        try:
            feed = inputs if type(inputs) is dict else dict(inputs)
            return dict(zip(self._names, self._run(self._names, feed, None)))  # noqa: B905 - as many as it was asked for
        except Exception as error:
            raise EngineError(f"onnxruntime failed while running: {_first_line(error)}") from error

    def close(self) -> None:
        self._session = self._run = None
        self._weights = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _loadable(source: Model | Path | bytes) -> tuple[str | bytes, dict[str, Any]]:
    """Return what a session is made from, and weights by name that the session reads where they lie."""
    if not isinstance(source, Model):
        return (str(source) if isinstance(source, Path) else source), {}
    if source.form != "graph":
        raise EngineError(f"onnxruntime opens models of the graph form, found {source.form}")
    return _without_weights(source.graph)


def _without_weights(graph: onnx_ir.Model) -> tuple[bytes, dict[str, Any]]:
    import onnx_ir
    import onnxruntime as ort

    light = graph.clone()
    weights = {}
    for subgraph in light.graphs():
        for name, value in subgraph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                continue
            shared = tensor.nbytes >= _LEAST_SHARED_BYTES and tensor.dtype.name in _SHARED_DTYPES
            if shared and subgraph is light.graph and value.uses():  # it misses those that it drops for being unused
                weights[name] = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()))
                value.const_value = _placeholder(tensor)
            elif isinstance(tensor, onnx_ir.ExternalTensor):
                value.const_value = onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    return onnx_ir.to_proto(light).SerializeToString(), weights


def _placeholder(tensor: onnx_ir.TensorProtocol) -> onnx_ir.ExternalTensor:
    """Name a place in a file, which is never read: the session is given the values themselves."""
    import onnx_ir

    return onnx_ir.ExternalTensor(
        "shared", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=tensor.name or "", base_dir=""
    )


def _options(target: Target) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures arrive as exceptions; warnings about the graph are not for the user
    options.intra_op_num_threads = target.threads or processor.n_cores()
    options.inter_op_num_threads = 1
    if target.layout == "plain":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if target.exact:  # by default (4) it rounds what a product with 8-bit weights reads, and 8-bit kernels may saturate
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _spec(node: Any) -> TensorSpec:
    kind = node.type
    dtype = _DTYPES.get(kind) or kind.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(node.name, dtype, tuple("?" if dim is None else dim for dim in node.shape))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
