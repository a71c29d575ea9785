"""A model's processing, ready to be used: the one value that a server holds of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.errors import PackageError
from tightship.package.declaring import read_labels
from tightship.package.fitting import fit
from tightship.package.processing import MAX_FILE_BYTES, Processing
from tightship.serve.failures import BadRequest
from tightship.serve.processing.audio import AudioReader
from tightship.serve.processing.image import ImageReader
from tightship.serve.processing.labels import Interpreter
from tightship.serve.processing.text import TextReader

__all__ = ["Processor", "ready"]

ReadFile = Callable[[str], bytes]


class Reader(Protocol):
    """What makes inputs of a body; each kind of input has one."""

    @property
    def content_types(self) -> tuple[str, ...]: ...

    def read(self, body: bytes, parameters: Mapping[str, str]) -> Arrays:
        """Raises `BadRequest` or `TooLarge`; `parameters` are those of the content type."""
        ...


class Processor:
    """Makes a model's inputs of a body, and says what its outputs mean; may be used by several threads at once."""

    def __init__(self, declared: Processing, reader: Reader | None, interpreter: Interpreter) -> None:
        self.declared = declared
        self._reader = reader
        self._interpreter = interpreter

    @property
    def kind(self) -> str:
        """What it takes: `image`, `text`, `audio`, or an empty string for tensors alone."""
        return next((kind for kind in ("image", "text", "audio") if getattr(self.declared, kind)), "")

    @property
    def content_types(self) -> tuple[str, ...]:
        """What `prepare` takes, such as `image/png`."""
        return self._reader.content_types if self._reader else ()

    def prepare(self, body: bytes, content_type: str) -> Arrays:
        """Make inputs of a picture, text or sound, for one item.

        Raises `BadRequest` where it is damaged or of another kind, and `TooLarge` where it is beyond what is allowed.
        """
        kind, parameters = _parsed(content_type)
        if self._reader is None or kind not in self._reader.content_types:
            named = [name for name in self.content_types if not name.endswith("*")]
            known = ", ".join(named) or "only tensors: application/json, application/octet-stream"
            raise BadRequest(f"this model does not take {kind[:80] or 'a body without Content-Type'}; it takes {known}")
        return self._reader.read(body, parameters)

    def interpret(self, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Say what the outputs mean, in values that JSON has: classes with their scores, or numbers by name."""
        return self._interpreter.interpret(outputs)


def ready(
    processing: Processing, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], read: ReadFile
) -> Processor:
    """Return the processor of a model with these tensors; `read` returns a file of its package.

    Raises `PackageError` where what is declared does not fit the model or its files, and `MissingExtra`.
    """
    labels = _labels(processing, read)
    try:
        fitted = fit(processing, inputs, outputs, len(labels) if labels else None)
    except ValueError as error:
        raise PackageError(f"the package's processing does not fit its model: {error}; pack it anew") from error
    return Processor(fitted, _reader(fitted, inputs, read), Interpreter(fitted.outputs, labels))


def _reader(fitted: Processing, inputs: Sequence[TensorSpec], read: ReadFile) -> Reader | None:
    specs = {spec.name: spec for spec in inputs}
    if fitted.image is not None:
        return ImageReader(fitted.image, specs[fitted.image.input])
    if fitted.audio is not None:
        return AudioReader(fitted.audio, specs[fitted.audio.input])
    if fitted.text is not None:
        vocabulary = _bounded(fitted.text.vocabulary, read) if fitted.text.vocabulary else b""
        return TextReader(fitted.text, specs, vocabulary)
    return None


def _labels(processing: Processing, read: ReadFile) -> tuple[str, ...]:
    name = processing.outputs.labels if processing.outputs else ""
    return read_labels(_bounded(name, read), name) if name else ()


def _bounded(name: str, read: ReadFile) -> bytes:
    data = bytes(read(name))
    if len(data) > MAX_FILE_BYTES:
        raise PackageError(f"{name} has {len(data):,} bytes; expected at most {MAX_FILE_BYTES:,}")
    return data


def _parsed(content_type: str) -> tuple[str, dict[str, str]]:
    kind, *rest = content_type.split(";")
    pairs = (part.partition("=") for part in rest)
    return kind.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
