"""ExecuTorch: the runtime of `.pte` files, here on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from tightship.core import extras
from tightship.core.model import Form, Model
from tightship.core.native_output import native_output_hidden
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.core.target import Precision, Target
from tightship.core.torch_module import to_numpy, to_torch
from tightship.engines.engine import Engine
from tightship.errors import EngineError

__all__ = ["ExecuTorchEngine"]

_IDENTIFIER = b"ET"
"""At byte 4 of every program, with the version of its schema behind it (ET12)."""

_DTYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "float16",
    6: "float32",
    7: "float64",
    11: "bool",
    15: "bfloat16",
}
"""By the number that torch gives a type (c10::ScalarType)."""


class ExecuTorchEngine(Engine):
    """`.pte` files on ExecuTorch, with the kernels that they were lowered to (XNNPACK, portable)."""

    name: ClassVar[str] = "executorch"
    module: ClassVar[str] = "executorch"
    form: ClassVar[Form | None] = None
    gives: ClassVar[str] = "PyTorch models as phones run them (.pte)"

    def precisions(self) -> tuple[Precision, ...]:
        return ("f32",)

    def open(self, source: Model | Path | bytes, target: Target) -> _ExecuTorchSession:
        """Load a `.pte` file, or its bytes; its operators and offsets are checked by ExecuTorch's own verifier.

        Inputs and outputs are called input_0, input_1, ..., output_0, ...: the file knows positions only. The threads
        are ExecuTorch's own choice: its Python runtime has no setting for them.
        """
        if not extras.available(self.module):
            extras.require(self.module, "the ExecuTorch engine")
        if target.precision not in self.precisions():
            raise EngineError(f"ExecuTorch runs float operators in f32 only, found {target.precision}")
        return _ExecuTorchSession(_content(source), target)


class _ExecuTorchSession:
    def __init__(self, content: bytes, target: Target) -> None:
        self.target = target
        try:
            with native_output_hidden():
                from executorch.runtime import Runtime

                # A method reads memory of its program, which it does not keep alive.
                self._program: Any = Runtime.get().load_program(content)
                self._method: Any = self._program.load_method("forward")
            facts = self._method.metadata
            self.inputs = tuple(
                _spec(f"input_{index}", facts.input_tensor_meta(index)) for index in range(facts.num_inputs())
            )
            self.outputs = tuple(
                _spec(f"output_{index}", facts.output_tensor_meta(index)) for index in range(facts.num_outputs())
            )
        except Exception as error:  # KeyError where there is no forward, RuntimeError, and what pybind11 raises
            raise EngineError(f"ExecuTorch cannot open the model: {_first_line(error)}") from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        if self._method is None:
            raise EngineError("ExecuTorch failed while running: the session is closed")
        self._check(inputs)
        tensors = [to_torch(inputs[spec.name]) for spec in self.inputs]
        try:
            results = self._method.execute(tensors)
        except Exception as error:
            raise EngineError(f"ExecuTorch failed while running: {_first_line(error)}") from error
        return {spec.name: to_numpy(tensor) for spec, tensor in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        self._method = None
        self._program = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        for spec in self.inputs:
            if spec.name not in inputs:
                raise EngineError(f"ExecuTorch failed while running: no array for input {spec.name}")
            array = inputs[spec.name]
            found = TensorSpec(spec.name, array.dtype.name, array.shape)
            if found != spec:
                raise EngineError(
                    f"ExecuTorch failed while running: expected {spec}, found {found}; "
                    "the file has fixed shapes: write it for others with --input-shape"
                )
        unknown = sorted(set(inputs) - {spec.name for spec in self.inputs})
        if unknown:
            raise EngineError(f"ExecuTorch failed while running: unknown input {', '.join(unknown)}")


def _content(source: Model | Path | bytes) -> bytes:
    if isinstance(source, Model):
        raise EngineError(f"ExecuTorch opens .pte files, found {source.form}: write the model as .pte first")
    if isinstance(source, Path) and not source.is_file():
        raise EngineError(f"ExecuTorch cannot open {source}: no such file")
    content = source.read_bytes() if isinstance(source, Path) else source
    if content[4:6] != _IDENTIFIER:
        raise EngineError(f"ExecuTorch cannot open the model: expected 'ET' at byte 4, found {content[4:6]!r}")
    return content


def _spec(name: str, facts: Any) -> TensorSpec:
    number = facts.dtype()
    return TensorSpec(name, _DTYPES.get(number, f"type {number}"), tuple(facts.sizes()))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
