"""Exported programs: `.pt2` files of torch.export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.atomic import writing
from tightship.core.exported import export, has_batch, quiet_torch, read_pt2
from tightship.core.model import Form, Model
from tightship.errors import ArtifactNotFound, UnsupportedError, UsageError
from tightship.formats.format import Format

if TYPE_CHECKING:
    import torch

__all__ = ["TorchExport"]


@dataclass(frozen=True)
class TorchExport(Format):
    """Read into a module that torch.export made; written from a module, with any number of items where it can."""

    name: ClassVar[str] = "torch-export"
    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)
    reads_into: ClassVar[Form | None] = "module"
    writes_from: ClassVar[tuple[Form, ...]] = ("module",)
    engine: ClassVar[str] = "torch"
    reads_with: ClassVar[tuple[str, ...]] = ("torch",)
    writes_with: ClassVar[tuple[str, ...]] = ("torch",)

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if not path.is_file():
            raise ArtifactNotFound(f"{path}: no such file")
        if weights is not None:
            raise UsageError(f"{path} holds its own weights; weights beside it are for package.module:function only")
        return Artifact(path, self.name)

    def read(self, artifact: Artifact) -> Model:
        extras.require("torch", "reading a .pt2 file")
        return read_pt2(artifact.path)

    def write(self, model: Model, path: Path) -> Artifact:
        extras.require("torch", "writing a .pt2 file")
        import torch

        if model.form != "module":
            raise UnsupportedError(f"{path}: a .pt2 file is written from a module, found a {model.form}")
        program = _any_batch(model)
        with writing(path) as temporary, quiet_torch():
            torch.export.save(program, str(temporary))
        return Artifact(path, self.name)


def _any_batch(model: Model) -> torch.export.ExportedProgram:
    if has_batch(model):
        try:
            return export(model, batch=True)
        except UnsupportedError:
            pass  # some modules run on any batch but are traceable at one only
    return export(model, batch=False)
