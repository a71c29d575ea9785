"""ONNX Runtime: the engine of the base install."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from tightship.core import graph, processor
from tightship.core.model import Form, Model
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.core.target import Precision, Target
from tightship.engines.engine import Engine
from tightship.errors import EngineError

__all__ = ["OnnxRuntime"]

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

    def open(self, source: Model | Path | bytes, target: Target) -> _OrtSession:
        if target.precision not in self.precisions():
            raise EngineError(f"onnxruntime runs float operators in f32 only, found {target.precision}")
        return _OrtSession(_loadable(source), target)


class _OrtSession:
    def __init__(self, source: str | bytes, target: Target) -> None:
        import onnxruntime as ort

        self.target = target
        try:
            self._session: Any = ort.InferenceSession(source, _options(target), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base below Exception
            raise EngineError(f"onnxruntime cannot open the model: {_first_line(error)}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        try:
            return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))
        except Exception as error:
            raise EngineError(f"onnxruntime failed while running: {_first_line(error)}") from error

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _loadable(source: Model | Path | bytes) -> str | bytes:
    if isinstance(source, Model):
        if source.form != "graph":
            raise EngineError(f"onnxruntime opens models of the graph form, found {source.form}")
        return graph.to_bytes(source)
    return str(source) if isinstance(source, Path) else source


def _options(target: Target) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures arrive as exceptions; warnings about the graph are not for the user
    options.intra_op_num_threads = target.threads or processor.n_cores()
    options.inter_op_num_threads = 1
    if target.layout == "plain":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return options


def _spec(node: Any) -> TensorSpec:
    kind = node.type
    dtype = _DTYPES.get(kind) or kind.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(node.name, dtype, tuple("?" if dim is None else dim for dim in node.shape))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
