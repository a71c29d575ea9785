"""TensorFlow on the CPU: Keras models, their files, and SavedModels, run as the serving signature of a SavedModel."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import numpy as np

from tightship.core import processor
from tightship.core.keras_files import H5_SUFFIXES, KERAS_SUFFIXES, read_h5, read_keras
from tightship.core.model import Form, Model
from tightship.core.saved_model import (
    OpenedSavedModel,
    changes_state,
    is_saved_model,
    open_saved_model,
    write_saved_model,
)
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.core.target import Precision, Target
from tightship.core.tensorflow_runtime import require_keras, require_tensorflow
from tightship.core.tensorflow_state import StatefulFunction, open_stateful
from tightship.engines.engine import Engine
from tightship.errors import EngineError, TightshipError

__all__ = ["TensorFlow"]


class TensorFlow(Engine):
    """Keras models run by TensorFlow, in graphs that have threads of their own; a stateful model keeps its state."""

    name: ClassVar[str] = "tensorflow"
    module: ClassVar[str] = "tensorflow"
    form: ClassVar[Form] = "keras"
    gives: ClassVar[str] = "TensorFlow models (.keras, .h5, SavedModel folders)"

    def precisions(self) -> tuple[Precision, ...]:
        return ("f32",)

    def open(self, source: Model | Path | bytes, target: Target) -> _TensorFlowSession | _StatefulSession:
        require_tensorflow("the tensorflow engine")
        if target.precision not in self.precisions():
            raise EngineError(f"the tensorflow engine has no {target.precision}; use f32")
        threads = target.threads or processor.n_cores()
        try:
            return _open(source, target, threads)
        except EngineError:
            raise
        except TightshipError as error:
            raise EngineError(f"tensorflow cannot open the model: {error}") from error


class _Session:
    """What sessions share: checking what they are given, and closing."""

    target: Target
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        # TensorFlow converts types silently, and would run without an input that no output needs.
        for spec in self.inputs:
            if spec.name not in inputs:
                found = ", ".join(inputs)
                raise EngineError(f"tensorflow failed while running: input {spec.name} is missing, found {found}")
            dtype = inputs[spec.name].dtype
            if dtype.name != spec.dtype and not (spec.dtype == "str" and dtype.kind in "OUS"):
                raise EngineError(
                    f"tensorflow failed while running: input {spec.name} is {spec.dtype}, found {dtype.name}"
                )
        if len(inputs) > len(self.inputs):
            unknown = sorted(set(inputs) - {spec.name for spec in self.inputs})
            raise EngineError(f"tensorflow failed while running: unknown input {', '.join(unknown)}")


class _TensorFlowSession(_Session):
    def __init__(
        self, opened: OpenedSavedModel, target: Target, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.target = target
        self.inputs = inputs
        self.outputs = outputs
        self._opened: OpenedSavedModel | None = opened

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        if self._opened is None:
            raise EngineError("the tensorflow session is closed; open the model again")
        self._check(inputs)
        feeds = {self._opened.feeds[name]: array for name, array in inputs.items()}
        fetches = {spec.name: self._opened.fetches[spec.name] for spec in self.outputs}
        try:
            found = self._opened.session.run(fetches, feeds)
        except Exception as error:  # TensorFlow has an error class of its own for each of its codes
            raise EngineError(f"tensorflow failed while running: {_reason(error)}") from error
        # An array may be TensorFlow's own memory, that of a constant for instance.
        return {name: np.array(array) for name, array in found.items()}

    def close(self) -> None:
        if self._opened is not None:
            self._opened.session.close()
            self._opened = None


class _StatefulSession(_Session):
    """A SavedModel that keeps a state, run by TensorFlow itself: from a state that is given to what it becomes."""

    def __init__(self, opened: OpenedSavedModel, function: StatefulFunction, target: Target) -> None:
        self.target = target
        self.inputs = opened.inputs + tuple(state.input for state in function.states)
        self.outputs = opened.outputs + tuple(state.output for state in function.states)
        self._function: StatefulFunction | None = function
        opened.session.close()

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        if self._function is None:
            raise EngineError("the tensorflow session is closed; open the model again")
        self._check(inputs)
        states = self._function.states
        try:
            for state in states:
                state.variable.assign(inputs[state.name])
            found = self._function.run({name: array for name, array in inputs.items() if name not in self._names})
            after = {state.output.name: np.array(state.variable.numpy()) for state in states}
        except Exception as error:  # TensorFlow has an error class of its own for each of its codes
            raise EngineError(f"tensorflow failed while running: {_reason(error)}") from error
        return {**found, **after}

    @property
    def _names(self) -> set[str]:
        return {state.name for state in self._function.states} if self._function else set()

    def close(self) -> None:
        self._function = None


def _open(source: Model | Path | bytes, target: Target, threads: int) -> _TensorFlowSession | _StatefulSession:
    if isinstance(source, Path) and is_saved_model(source):
        opened = open_saved_model(source, threads)
        if changes_state(opened) and (stateful := open_stateful(source)) is not None:
            return _StatefulSession(opened, stateful, target)
        return _TensorFlowSession(opened, target, opened.inputs, opened.outputs)
    model = _model(source)
    require_keras("the tensorflow engine")
    with tempfile.TemporaryDirectory(prefix="tightship-") as folder:
        saved = Path(folder, "model")
        write_saved_model(model, saved)
        return _TensorFlowSession(open_saved_model(saved, threads), target, model.inputs, model.outputs)


def _model(source: Model | Path | bytes) -> Model:
    if isinstance(source, bytes):
        raise EngineError(f"tensorflow opens Keras models and their files, found {len(source)} bytes")
    if isinstance(source, Model):
        if source.form != "keras":
            raise EngineError(f"tensorflow opens models of the keras form, found {source.form}")
        return source
    if not source.is_file():
        raise EngineError(f"tensorflow cannot open the model: {source}: no such file or SavedModel folder")
    if source.name.lower().endswith(KERAS_SUFFIXES):
        return read_keras(source)
    if source.name.lower().endswith(H5_SUFFIXES):
        return read_h5(source)
    raise EngineError(f"tensorflow opens .keras, .h5 and SavedModel folders, found {source}")


def _reason(error: Exception) -> str:
    """The line before TensorFlow names the node (`[[{{node`), which comes after a stack of its own; else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    before = (line for line, following in pairwise(lines) if following.startswith("[["))
    return next(before, lines[0] if lines else type(error).__name__)
