"""Keras models: `.keras` files of Keras 3, and whole models in HDF5 files of Keras 2 and 3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tightship.core.artifact import Artifact
from tightship.core.atomic import writing
from tightship.core.keras_files import H5_SUFFIXES, KERAS_SUFFIXES, read_h5, read_keras, write_keras
from tightship.core.model import Form, Model
from tightship.core.tensorflow_runtime import require_keras
from tightship.errors import ArtifactNotFound, UnsupportedError, UsageError
from tightship.formats.format import Format

__all__ = ["Keras", "KerasH5"]


@dataclass(frozen=True)
class _KerasFile(Format):
    """What the two formats of Keras share."""

    trusted: tuple[str, ...] = ()

    reads_into: ClassVar[Form | None] = "keras"
    writes_from: ClassVar[tuple[Form, ...]] = ("keras",)
    engine: ClassVar[str] = "tensorflow"
    reads_with: ClassVar[tuple[str, ...]] = ("tensorflow",)
    writes_with: ClassVar[tuple[str, ...]] = ("tensorflow",)

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if not path.is_file():
            raise ArtifactNotFound(f"{path}: no such file")
        if weights is not None:
            raise UsageError(f"{path} holds its own weights; weights beside it are for package.module:function only")
        return Artifact(path, self.name)

    def write(self, model: Model, path: Path) -> Artifact:
        require_keras(f"writing a {self.suffixes[0]} file")
        if model.form != "keras":
            raise UnsupportedError(
                f"{path}: a {self.suffixes[0]} file is written from a keras model, found a {model.form}"
            )
        with writing(path) as temporary:
            write_keras(model, temporary, self.suffixes[0])
        return Artifact(path, self.name)


@dataclass(frozen=True)
class Keras(_KerasFile):
    """Files of Keras 3: read without running code that is not in `trusted`, written so that Keras alone loads them."""

    name: ClassVar[str] = "keras"
    suffixes: ClassVar[tuple[str, ...]] = KERAS_SUFFIXES

    def read(self, artifact: Artifact) -> Model:
        return read_keras(artifact.path, self.trusted)


@dataclass(frozen=True)
class KerasH5(_KerasFile):
    """Whole models in HDF5 files: read from Keras 2 and 3, written for whoever still needs them."""

    name: ClassVar[str] = "keras-h5"
    suffixes: ClassVar[tuple[str, ...]] = H5_SUFFIXES

    def read(self, artifact: Artifact) -> Model:
        return read_h5(artifact.path, self.trusted)
