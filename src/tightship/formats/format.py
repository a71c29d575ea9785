"""What a format is: how it is recognised, what it reads into and what it is written from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.model import Form, Model

__all__ = ["Format"]


@dataclass(frozen=True)
class Format(ABC):
    """One file format. `reads_into` and `writes_from` are forms; None or empty where it cannot.

    `without_suffix` says what a source is, where it has no suffix to be known by.
    `writes_from` begins with the form whose writer is the best kept. `engine` is the one that runs such a file, so that
    what is written is proven in the engine that it is for; empty where none runs it here. `reads_with` and
    `writes_with` are the optional modules that each needs. `through` is a form that a model must have had on its way to
    the file. `device_engine` runs a file on a system of its own, when that is asked for. What can be chosen in writing
    are the fields of the row's dataclass.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    without_suffix: ClassVar[str] = ""
    reads_into: ClassVar[Form | None]
    writes_from: ClassVar[tuple[Form, ...]]
    engine: ClassVar[str]
    through: ClassVar[Form | None] = None
    device_engine: ClassVar[str] = ""
    reads_with: ClassVar[tuple[str, ...]] = ()
    writes_with: ClassVar[tuple[str, ...]] = ()

    @property
    def readable(self) -> bool:
        """Whether files can be read here: the format has a reader, and what it needs is installed."""
        return self.reads_into is not None and all(map(extras.available, self.reads_with))

    @property
    def writable(self) -> bool:
        """Whether files can be written here."""
        return bool(self.writes_from) and all(map(extras.available, self.writes_with))

    def recognise(self, source: str) -> bool:
        """Whether `source` (a path as the user typed it) is of this format. Only the name is looked at."""
        return source.lower().endswith(self.suffixes)

    @abstractmethod
    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        """Describe the artifact at `source`. Raises `ArtifactNotFound`; nothing is parsed yet."""

    @abstractmethod
    def read(self, artifact: Artifact) -> Model:
        """Read into the form `reads_into`. Raises `InvalidModel` on truncated, corrupt or hostile files."""

    def loadable(self, artifact: Artifact) -> Path | Model:
        """Return what `engine` opens to run the artifact; by default its file."""
        return artifact.path

    @abstractmethod
    def write(self, model: Model, path: Path) -> Artifact:
        """Write a model of a form in `writes_from` whole or not at all. Raises `OutputError`."""
