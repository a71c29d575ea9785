"""PyTorch itself, eager: the baseline of a model that comes as a module."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from tightship.core import extras, processor
from tightship.core.exported import read_pt2
from tightship.core.model import Form, Model
from tightship.core.session import Arrays
from tightship.core.target import Precision, Target
from tightship.core.torch_module import named_outputs, to_numpy, to_torch
from tightship.engines.engine import Engine
from tightship.errors import EngineError, TightshipError

__all__ = ["Torch"]


class Torch(Engine):
    """Modules run by PyTorch on the CPU."""

    name: ClassVar[str] = "torch"
    module: ClassVar[str] = "torch"
    form: ClassVar[Form] = "module"
    gives: ClassVar[str] = "PyTorch models (.pt2, modules and their weights)"

    def precisions(self) -> tuple[Precision, ...]:
        bf16 = {"avx512_bf16", "amx_bf16", "bf16"} & set(processor.features())
        return ("f32", "bf16") if bf16 else ("f32",)

    def open(self, source: Model | Path | bytes, target: Target) -> _TorchSession:
        extras.require(self.module, "the torch engine")
        if target.precision not in self.precisions():
            raise EngineError(f"torch has no fast {target.precision} on this processor; use f32")
        return _TorchSession(_model(source), target)


class _TorchSession:
    def __init__(self, model: Model, target: Target) -> None:
        self.target = target
        self.inputs = model.inputs
        self.outputs = model.outputs
        self._module: Any = model.content.module

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        import torch

        if self._module is None:
            raise EngineError("the torch session is closed; open the model again")
        self._check(inputs)
        _use_threads(self.target.threads or processor.n_cores())
        try:
            with torch.inference_mode(), _arithmetic(self.target.precision):
                outputs = named_outputs(self._module(*(to_torch(inputs[spec.name]) for spec in self.inputs)))
                # Autocast gives bfloat16 outputs; a session gives what its model declares.
                return {spec.name: to_numpy(outputs[spec.name], spec.dtype) for spec in self.outputs}
        except Exception as error:  # a module's own code may raise anything
            raise EngineError(f"torch failed while running: {_first_line(error)}") from error

    def close(self) -> None:
        self._module = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        # torch takes arrays by position and converts types silently where an operator allows it.
        for spec in self.inputs:
            if spec.name not in inputs:
                raise EngineError(
                    f"torch failed while running: input {spec.name} is missing, found {', '.join(inputs)}"
                )
            if inputs[spec.name].dtype.name != spec.dtype:
                found = inputs[spec.name].dtype.name
                raise EngineError(f"torch failed while running: input {spec.name} is {spec.dtype}, found {found}")
        if len(inputs) > len(self.inputs):
            unknown = sorted(set(inputs) - {spec.name for spec in self.inputs})
            raise EngineError(f"torch failed while running: unknown input {', '.join(unknown)}")


def _model(source: Model | Path | bytes) -> Model:
    if isinstance(source, bytes):
        raise EngineError(f"torch opens models of the module form and .pt2 files, found {len(source)} bytes")
    if isinstance(source, Model):
        if source.form != "module":
            raise EngineError(f"torch opens models of the module form, found {source.form}")
        return source
    try:
        return read_pt2(source)
    except TightshipError as error:
        raise EngineError(f"torch cannot open the model: {error}") from error


def _use_threads(count: int) -> None:
    import torch

    if torch.get_num_threads() != count:  # one number for the whole process, so each run sets its own
        torch.set_num_threads(count)


def _arithmetic(precision: Precision) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
