"""OpenVINO: ONNX models and OpenVINO IR on Intel's and other processors, in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tightship.core import extras, processor
from tightship.core.model import Form, Model
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.core.target import Precision, Target
from tightship.engines.engine import Engine
from tightship.errors import EngineError

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["OpenVino"]

_MEMORY = "*/_ORT_MEM_ADDR_/*"
"""Where OpenVINO's ONNX reader is told, in place of a file, that a weight lies in memory: its offset is the address."""

_LEAST_SHARED_BYTES = 64 << 10
_SHARED_DTYPES = frozenset({"FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64"})
"""Weights of these types and sizes are read where they lie, which must stay so as long as the session lives."""


class OpenVino(Engine):
    """ONNX models, and IR files (`.xml` with `.bin` beside), on OpenVINO's CPU plug-in."""

    name: ClassVar[str] = "openvino"
    module: ClassVar[str] = "openvino"
    form: ClassVar[Form] = "graph"
    gives: ClassVar[str] = "ONNX models at float32, bfloat16 and int8; often the fastest on x86"

    def precisions(self) -> tuple[Precision, ...]:
        bf16 = {"avx512_bf16", "amx_bf16", "bf16"} & set(processor.features())
        return ("f32", "bf16") if bf16 else ("f32",)

    def open(self, source: Model | Path | bytes, target: Target) -> _OvSession:
        extras.require(self.module, "the OpenVINO engine")
        if target.precision not in self.precisions():
            raise EngineError(f"OpenVINO has no fast {target.precision} on this processor; use f32")
        return _OvSession(source, target)


class _OvSession:
    def __init__(self, source: Model | Path | bytes, target: Target) -> None:
        import openvino as ov

        self.target = target
        try:
            core = ov.Core()
            loadable, self._weights = _loadable(source)
            model = core.read_model(loadable)
            known = (*source.inputs, *source.outputs) if isinstance(source, Model) else ()
            # Compiling merges values, and a port then carries the names of all of them.
            names = [_name(port, known) for port in (*model.inputs, *model.outputs)]
            compiled = core.compile_model(model, "CPU", _options(target))
        except EngineError:
            raise
        except Exception as error:  # OpenVINO raises RuntimeError and its own types
            raise EngineError(f"OpenVINO cannot open the model: {_reason(error)}") from error
        specs = tuple(map(_spec, (*compiled.inputs, *compiled.outputs), names))
        self.inputs, self.outputs = specs[: len(compiled.inputs)], specs[len(compiled.inputs) :]
        self._request: Any = compiled.create_infer_request()

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        missing = [spec.name for spec in self.inputs if spec.name not in inputs]
        if missing:  # OpenVINO would take what lies in that input's memory
            raise EngineError(f"OpenVINO failed while running: no array for input {', '.join(missing)}")
        try:
            results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        except Exception as error:
            raise EngineError(f"OpenVINO failed while running: {_reason(error)}") from error
        return {spec.name: np.asarray(results[index]) for index, spec in enumerate(self.outputs)}

    def close(self) -> None:
        self._request = None
        self._weights = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _loadable(source: Model | Path | bytes) -> tuple[str | BytesIO, list[np.ndarray]]:
    """Return what is read, and the weights that are read where they lie."""
    if not isinstance(source, Model):
        return (str(source) if isinstance(source, Path) else BytesIO(source)), []
    if source.form != "graph":
        raise EngineError(f"OpenVINO opens models of the graph form, found {source.form}")
    return _without_weights(source.graph)


def _without_weights(graph: onnx_ir.Model) -> tuple[BytesIO, list[np.ndarray]]:
    import onnx_ir

    light = graph.clone()
    weights = []
    for subgraph in light.graphs():
        for name, value in subgraph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                continue
            if tensor.nbytes >= _LEAST_SHARED_BYTES and tensor.dtype.name in _SHARED_DTYPES:
                weights.append(np.ascontiguousarray(tensor.numpy()))
                value.const_value = _in_memory(tensor, weights[-1])
            elif isinstance(tensor, onnx_ir.ExternalTensor):
                value.const_value = onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    return BytesIO(onnx_ir.to_proto(light).SerializeToString()), weights


def _in_memory(tensor: onnx_ir.TensorProtocol, array: np.ndarray) -> onnx_ir.ExternalTensor:
    import onnx_ir

    address = array.__array_interface__["data"][0]
    return onnx_ir.ExternalTensor(
        _MEMORY, address, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=tensor.name or "", base_dir=""
    )


def _options(target: Target) -> dict[str, Any]:
    options = {
        "INFERENCE_PRECISION_HINT": target.precision,
        "INFERENCE_NUM_THREADS": target.threads or processor.n_cores(),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    # Neither the inputs of products with 8-bit weights are rounded then, nor float operators between Q and DQ moved.
    exact = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "LP_TRANSFORMS_MODE": "NO"}
    return {**options, **exact} if target.exact else options


def _spec(port: Any, name: str) -> TensorSpec:
    kind = port.get_element_type()
    dtype = "str" if kind.to_string() == "string" else str(kind.to_dtype())
    shape = tuple("?" if dim.is_dynamic else dim.get_length() for dim in port.get_partial_shape())
    return TensorSpec(name, dtype, shape)


def _name(port: Any, known: tuple[TensorSpec, ...]) -> str:
    # A port carries the names of every value that it is; the model says which of them is its output.
    names = port.get_names()
    wanted = [spec.name for spec in known if spec.name in names]
    return wanted[0] if wanted else min(names, default="")


def _reason(error: Exception) -> str:
    # OpenVINO prefixes messages with source positions; the last non-empty line says what happened.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
