"""Core ML, on macOS alone: the runtime that packages are for.

Written against coremltools' documented API (https://apple.github.io/coremltools/docs-guides/source/model-prediction.html)
and run by nobody on other systems.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from tightship.core import extras
from tightship.core.model import Form, Model
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.core.target import Precision, Target
from tightship.engines.engine import Engine
from tightship.errors import EngineError, UnsupportedError

__all__ = ["CoreMlEngine"]

_DTYPES = {65568: "float32", 65552: "float16", 65600: "float64", 131104: "int32"}
"""By ArrayFeatureType.ArrayDataType of Core ML's model format."""


class CoreMlEngine(Engine):
    """`.mlpackage` and `.mlmodel` files on Core ML's CPU kernels."""

    name: ClassVar[str] = "coreml"
    module: ClassVar[str] = "coremltools"
    form: ClassVar[Form | None] = None
    gives: ClassVar[str] = "Core ML models as Apple's systems run them (on macOS)"

    @property
    def available(self) -> bool:
        return platform.system() == "Darwin" and super().available

    def precisions(self) -> tuple[Precision, ...]:
        return ("f32",)

    def open(self, source: Model | Path | bytes, target: Target) -> _CoreMlSession:
        """Compile and load a package. Raises `UnsupportedError` on another system than macOS."""
        if platform.system() != "Darwin":
            raise UnsupportedError(f"Core ML runs on macOS only, and this is {platform.system()}; leave out --device")
        extras.require(self.module, "the Core ML engine")
        if not isinstance(source, Path):
            raise EngineError("Core ML opens .mlpackage and .mlmodel files; write the model as one first")
        return _CoreMlSession(source, target)


class _CoreMlSession:
    def __init__(self, path: Path, target: Target) -> None:
        import coremltools

        self.target = target
        try:
            self._model: Any = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
            description = self._model.get_spec().description
        except Exception as error:  # coremltools raises RuntimeError, ValueError and what its parts raise
            raise EngineError(f"Core ML cannot open the model: {_first_line(error)}") from error
        self.inputs = tuple(map(_spec, description.input))
        self.outputs = tuple(map(_spec, description.output))

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        if self._model is None:
            raise EngineError("Core ML failed while running: the session is closed")
        try:
            found = self._model.predict(dict(inputs))
        except Exception as error:
            raise EngineError(f"Core ML failed while running: {_first_line(error)}") from error
        return {spec.name: np.asarray(found[spec.name], spec.dtype) for spec in self.outputs}

    def close(self) -> None:
        self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _spec(feature: Any) -> TensorSpec:
    kind = feature.type.WhichOneof("Type")
    if kind != "multiArrayType":
        raise EngineError(f"Core ML's {feature.name} is no array but {kind}, which is not compared")
    array = feature.type.multiArrayType
    return TensorSpec(feature.name, _DTYPES.get(array.dataType, "float32"), tuple(map(int, array.shape)))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
