"""What a format is: how it is recognised, what it reads into and what it is written from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from tightship.core.artifact import Artifact
from tightship.core.model import Form, Model

__all__ = ["Format"]


class Format(ABC):
    """One file format. `reads_into` and `writes_from` are forms; None or empty where it cannot."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    reads_into: ClassVar[Form | None]
    writes_from: ClassVar[tuple[Form, ...]]

    def recognise(self, source: str) -> bool:
        """Whether `source` (a path as the user typed it) is of this format. Only the name is looked at."""
        return source.lower().endswith(self.suffixes)

    @abstractmethod
    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        """Describe the artifact at `source`. Raises `ArtifactNotFound`; nothing is parsed yet."""

    @abstractmethod
    def read(self, artifact: Artifact) -> Model:
        """Read into the form `reads_into`. Raises `InvalidModel` on truncated, corrupt or hostile files."""

    @abstractmethod
    def write(self, model: Model, path: Path) -> Artifact:
        """Write a model of a form in `writes_from` whole or not at all. Raises `OutputError`."""
