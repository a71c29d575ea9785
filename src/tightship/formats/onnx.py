"""ONNX files, with weights inside or in external data beside them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tightship.core import graph
from tightship.core.artifact import Artifact
from tightship.core.atomic import writing
from tightship.core.model import Form, Model
from tightship.errors import ArtifactNotFound, InvalidModel
from tightship.formats.format import Format

__all__ = ["Onnx"]


class Onnx(Format):
    """Read into a graph; written from a graph."""

    name: ClassVar[str] = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    reads_into: ClassVar[Form | None] = "graph"
    writes_from: ClassVar[tuple[Form, ...]] = ("graph",)

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if not path.is_file():
            raise ArtifactNotFound(f"{path}: no such file")
        return Artifact(path, self.name)

    def read(self, artifact: Artifact) -> Model:
        import onnx_ir

        try:
            return graph.from_ir(onnx_ir.load(artifact.path))
        except Exception as error:
            raise InvalidModel(f"{artifact.path}: not an ONNX model: {error}") from error

    def write(self, model: Model, path: Path) -> Artifact:
        with writing(path) as temporary:
            temporary.write_bytes(graph.to_bytes(model))
        return Artifact(path, self.name)
