"""The table of formats. Adding a format is one file here and its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from tightship.core.artifact import Artifact
from tightship.core.model import Model
from tightship.core.table import Table
from tightship.errors import UnknownFormat
from tightship.formats.coreml import CoreMl
from tightship.formats.decoder import Decoder
from tightship.formats.executorch import ExecuTorch
from tightship.formats.format import Format
from tightship.formats.keras import Keras, KerasH5
from tightship.formats.onnx import Onnx
from tightship.formats.openvino_ir import OpenVinoIr
from tightship.formats.pytorch import PyTorch
from tightship.formats.saved_model import SavedModel
from tightship.formats.tflite import TfLite
from tightship.formats.torch_export import TorchExport
from tightship.formats.torch_source import TorchSource
from tightship.formats.torchscript import TorchScript

__all__ = ["FORMATS", "Format", "format_of_output", "read", "read_shaped", "recognise", "write"]

FORMATS: Table[Format] = Table(
    "format",
    {
        entry.name: entry
        for entry in (
            Onnx(),
            TorchExport(),
            TorchScript(),
            TorchSource(),
            PyTorch(),
            Keras(),
            KerasH5(),
            SavedModel(),
            TfLite(),
            OpenVinoIr(),
            CoreMl(),
            ExecuTorch(),
            Decoder(),
        )
    },
)


def recognise(source: str, weights: Path | None = None) -> Artifact:
    """Return the artifact that `source` names: a path, or `package.module:function`.

    Raises `UnknownFormat` where no row of the table recognises it and `ArtifactNotFound` where it is not there.
    """
    for entry in FORMATS.values():
        if entry.recognise(source):
            return entry.artifact(source, weights)
    known = ", ".join(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
    others = " or ".join(entry.without_suffix for entry in FORMATS.values() if entry.without_suffix)
    raise UnknownFormat(f"{source}: no format has this suffix; expected {known}, or {others}")


def read(artifact: Artifact) -> Model:
    """Read an artifact into the form that is native to its format."""
    return FORMATS[artifact.format].read(artifact)


def read_shaped(
    artifact: Artifact, shapes: Mapping[str, Sequence[int]], trusted: Sequence[str] = ()
) -> tuple[Model, Mapping[str, Sequence[int]]]:
    """Read an artifact whose inputs are to have these shapes, and return what is left to be fixed in the model.

    A format that does not hold shapes (its row has a field `input_shapes`) takes them for reading, and one that may
    hold a pickle (a field `trusted`) the names of classes that it may import.
    """
    entry = FORMATS[artifact.format]
    known = {field.name for field in fields(entry)}
    if "trusted" in known:
        entry = replace(entry, trusted=tuple(trusted))  # type: ignore[call-arg]
    if "input_shapes" in known:
        named = tuple((name, tuple(shape)) for name, shape in shapes.items())
        return replace(entry, input_shapes=named).read(artifact), {}  # type: ignore[call-arg]
    return entry.read(artifact), shapes


def write(model: Model, path: Path) -> Artifact:
    """Write a model in the format that the suffix of `path` names."""
    return format_of_output(path).write(model, path)


def format_of_output(path: Path) -> Format:
    """Return the format that the suffix of `path` names and that can be written.

    Raises `UnknownFormat` where there is none.
    """
    for entry in FORMATS.values():
        if entry.writes_from and entry.suffixes and str(path).lower().endswith(entry.suffixes):
            return entry
    known = ", ".join(suffix for entry in FORMATS.values() if entry.writes_from for suffix in entry.suffixes)
    raise UnknownFormat(f"{path}: no format that can be written has this suffix; expected {known}")
