"""OpenVINO: ONNX models and OpenVINO IR on Intel's and other processors, in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from tightship.core import extras, graph, processor
from tightship.core.model import Form, Model
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.core.target import Precision, Target
from tightship.engines.engine import Engine
from tightship.errors import EngineError

__all__ = ["OpenVino"]


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
            model = core.read_model(_loadable(source))
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _loadable(source: Model | Path | bytes) -> Any:
    if isinstance(source, Model):
        if source.form != "graph":
            raise EngineError(f"OpenVINO opens models of the graph form, found {source.form}")
        return BytesIO(graph.to_bytes(source))
    return str(source) if isinstance(source, Path) else BytesIO(source)


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
