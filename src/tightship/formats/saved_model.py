"""TensorFlow SavedModels: folders that hold a graph and its variables."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tightship.core import atomic
from tightship.core.artifact import Artifact
from tightship.core.child import run_in_child
from tightship.core.graph import from_bytes
from tightship.core.model import Form, Model
from tightship.core.saved_model import is_saved_model, write_saved_model
from tightship.core.tensorflow_runtime import require_keras, require_tensorflow
from tightship.errors import ArtifactNotFound, InvalidModel, UnsupportedError, UsageError
from tightship.formats.format import Format

__all__ = ["SavedModel"]

_OURS = frozenset({"saved_model.pb", "fingerprint.pb", "keras_metadata.pb", "variables", "assets", "assets.extra"})
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class SavedModel(Format):
    """The serving signature is read into a graph; written from a Keras model, with its names of inputs and outputs."""

    name: ClassVar[str] = "saved-model"
    suffixes: ClassVar[tuple[str, ...]] = (".savedmodel",)
    reads_into: ClassVar[Form | None] = "graph"
    writes_from: ClassVar[tuple[Form, ...]] = ("keras",)
    engine: ClassVar[str] = "tensorflow"
    reads_with: ClassVar[tuple[str, ...]] = ("tensorflow", "tf2onnx")
    writes_with: ClassVar[tuple[str, ...]] = ("tensorflow",)

    def recognise(self, source: str) -> bool:
        """By the suffix, or any folder that holds `saved_model.pb`: most have names without one."""
        return super().recognise(source.rstrip("/")) or is_saved_model(Path(source))

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if not path.exists():
            raise ArtifactNotFound(f"{path}: no such folder")
        if weights is not None:
            raise UsageError(f"{path} holds its own weights; weights beside it are for package.module:function only")
        return Artifact(path, self.name)

    def read(self, artifact: Artifact) -> Model:
        """Convert in a child process: TensorFlow's loader can be crashed by hostile graphs."""
        path = artifact.path
        if not is_saved_model(path):
            raise InvalidModel(f"{path}: not a SavedModel: expected a folder that holds saved_model.pb")
        require_tensorflow("reading a SavedModel")
        with tempfile.TemporaryDirectory(prefix="tightship-") as folder:
            converted = Path(folder, "model.onnx")
            run_in_child(
                "tightship.core.tensorflow_to_onnx:saved_model_to_file",
                (path, converted),
                purpose=f"reading {path}",
                timeout_s=_TIMEOUT_S,
            )
            return from_bytes(converted.read_bytes())

    def write(self, model: Model, path: Path) -> Artifact:
        require_keras("writing a SavedModel")
        if model.form != "keras":
            raise UnsupportedError(f"{path}: a SavedModel is written from a keras model, found a {model.form}")
        with atomic.replace_folder(path, _OURS) as temporary:
            write_saved_model(model, temporary)
        return Artifact(path, self.name)
