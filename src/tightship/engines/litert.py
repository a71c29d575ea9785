"""LiteRT (formerly TensorFlow Lite): the runtime of `.tflite` files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from tightship.core import extras, processor
from tightship.core.artifact import file_digest
from tightship.core.child import run_in_child
from tightship.core.model import Form, Model
from tightship.core.native_output import native_output_hidden
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.core.target import Precision, Target
from tightship.engines.engine import Engine
from tightship.engines.litert_float import with_float_weights
from tightship.errors import EngineError, TightshipError

__all__ = ["LiteRt", "trial"]

_TRIAL = "tightship.engines.litert:trial"
_TRIAL_S = 120

_TRIED: set[str] = set()
"""Digests of contents that a child of this process has run: what is known of them does not change."""


class LiteRt(Engine):
    """`.tflite` files on LiteRT's CPU kernels (XNNPACK)."""

    name: ClassVar[str] = "litert"
    module: ClassVar[str] = "ai_edge_litert"
    form: ClassVar[Form | None] = None
    gives: ClassVar[str] = "TFLite models, float and quantized, as phones and boards run them"

    def precisions(self) -> tuple[Precision, ...]:
        return ("f32",)

    def open(self, source: Model | Path | bytes, target: Target) -> _LiteRtSession:
        """Load a `.tflite` file, or its bytes, after a process of its own has seen it run once.

        LiteRT trusts what it parses: a damaged file may end the process that opens it.
        """
        if not extras.available(self.module):
            extras.require(self.module, "the LiteRT engine")
        if target.precision not in self.precisions():
            raise EngineError(f"LiteRT runs float operators in f32 only, found {target.precision}")
        return _LiteRtSession(_exact(_tried(source)) if target.exact else _tried(source), target)


class _LiteRtSession:
    def __init__(self, content: bytes, target: Target) -> None:
        self.target = target
        with native_output_hidden():
            self._interpreter: Any = _interpreter(content, target.threads or processor.n_cores())
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        names = _names(self._interpreter._get_full_signature_list(), inputs, outputs)
        self.inputs = tuple(map(_spec, inputs, names[: len(inputs)]))
        self.outputs = tuple(map(_spec, outputs, names[len(inputs) :]))
        self._indices = {spec.name: detail["index"] for spec, detail in zip(self.inputs, inputs, strict=True)}
        self._results = {spec.name: detail["index"] for spec, detail in zip(self.outputs, outputs, strict=True)}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        if self._interpreter is None:
            raise EngineError("LiteRT failed while running: the session is closed")
        self._check(inputs)
        try:
            self._resize({name: array.shape for name, array in inputs.items()})
            for name, index in self._indices.items():
                self._interpreter.set_tensor(index, inputs[name])
            self._interpreter.reset_all_variables()  # each run stands for itself
            self._interpreter.invoke()
            return {name: np.array(self._interpreter.get_tensor(index)) for name, index in self._results.items()}
        except (ValueError, RuntimeError) as error:
            self._shapes = {}
            raise EngineError(f"LiteRT failed while running: {_first_line(error)}") from error

    def close(self) -> None:
        self._interpreter = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        for spec in self.inputs:
            if spec.name not in inputs:
                raise EngineError(f"LiteRT failed while running: no array for input {spec.name}")
            array = inputs[spec.name]
            if array.dtype.name != spec.dtype or not spec.accepts(array.shape):
                found = TensorSpec(spec.name, array.dtype.name, array.shape)
                raise EngineError(f"LiteRT failed while running: expected {spec}, found {found}{_hint(spec, array)}")
        unknown = sorted(set(inputs) - set(self._indices))
        if unknown:
            raise EngineError(f"LiteRT failed while running: unknown input {', '.join(unknown)}")

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._indices[name], shape)
        with native_output_hidden():
            self._interpreter.allocate_tensors()
        self._shapes = shapes


def trial(path: Path) -> None:
    """Load, allocate and run once on zeros; called in a child process. Raises `EngineError` where LiteRT refuses."""
    interpreter = _interpreter(path.read_bytes(), 1)
    try:
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"LiteRT cannot run the model: {_first_line(error)}") from error


def _tried(source: Model | Path | bytes) -> bytes:
    """Return the bytes of a model that has run once in a child process."""
    if isinstance(source, Model):
        raise EngineError(f"LiteRT opens .tflite files, found {source.form}: write the model as .tflite first")
    if isinstance(source, Path):
        if not source.is_file():
            raise EngineError(f"LiteRT cannot open {source}: no such file")
        _try_once(source)
        return source.read_bytes()
    with tempfile.TemporaryDirectory(prefix="tightship-") as folder:
        file = Path(folder, "model.tflite")
        file.write_bytes(source)
        _try_once(file)
    return source


def _try_once(path: Path) -> None:
    """One content is tried once per process."""
    digest = file_digest(path)
    if digest in _TRIED:
        return
    try:
        run_in_child(_TRIAL, [path], purpose=str(path), timeout_s=_TRIAL_S)
    except TightshipError as error:
        what = "" if isinstance(error, EngineError) else "LiteRT cannot open the model: "
        raise EngineError(f"{what}{error}") from error
    _TRIED.add(digest)


def _exact(content: bytes) -> bytes:
    try:
        return with_float_weights(content)
    except Exception as error:  # the FlatBuffer's reader raises what its offsets lead to
        raise EngineError(f"LiteRT's file cannot be taken apart: {_first_line(error)}") from error


def _interpreter(content: bytes, n_threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=content, num_threads=n_threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"LiteRT cannot open the model: {_first_line(error)}") from error
    return interpreter


def _names(signatures: Mapping[str, Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> list[str]:
    """Names of inputs and outputs by the file's signature; those of its tensors where it has none that covers all."""
    wanted = [detail["index"] for detail in (*inputs, *outputs)]
    for key in sorted(signatures, key=lambda key: key != "serving_default"):
        pairs = [*signatures[key]["inputs"].items(), *signatures[key]["outputs"].items()]
        if sorted(index for _, index in pairs) == sorted(wanted) and len(dict(pairs)) == len(pairs):
            left = {index: [name for name, other in pairs if other == index] for index in wanted}
            return [left[index].pop(0) for index in wanted]
    return [detail["name"] for detail in (*inputs, *outputs)]


def _spec(detail: Mapping[str, Any], name: str) -> TensorSpec:
    lengths = zip(detail["shape"], detail["shape_signature"], strict=True)
    shape = tuple("?" if free == -1 else int(length) for length, free in lengths)
    return TensorSpec(name, np.dtype(detail["dtype"]).name, shape)


def _hint(spec: TensorSpec, array: np.ndarray) -> str:
    if array.ndim != len(spec.shape) or array.dtype.name != spec.dtype:
        return ""
    return f"; the file has fixed shapes: write it for others with --input-shape {spec.name}=..."


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
