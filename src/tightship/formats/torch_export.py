"""Placeholder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tightship.core.artifact import Artifact
from tightship.core.model import Form, Model
from tightship.formats.format import Format

__all__ = ["TorchExport"]


class TorchExport(Format):
    name: ClassVar[str] = "torch-export"
    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)
    reads_into: ClassVar[Form | None] = "module"
    writes_from: ClassVar[tuple[Form, ...]] = ()

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        raise NotImplementedError

    def read(self, artifact: Artifact) -> Model:
        raise NotImplementedError

    def write(self, model: Model, path: Path) -> Artifact:
        raise NotImplementedError
