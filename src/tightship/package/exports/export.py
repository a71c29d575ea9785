"""What an export is: a folder that another tool reads, made of one model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tightship.package.exports.exportable import Exportable

__all__ = ["Export"]


@dataclass(frozen=True)
class Export(ABC):
    """One kind of export. `takes` are the formats of models that it is made of; what can be chosen are the fields."""

    name: ClassVar[str]
    about: ClassVar[str]
    takes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def ours(self, model: Exportable) -> frozenset[str]:
        """What it writes directly into its folder: of what an earlier export may be replaced."""

    @abstractmethod
    def write(self, model: Exportable, folder: Path) -> Path:
        """Write everything into the empty `folder`; return the path of the model in it.

        Raises `UnsupportedError` where the model has what the other tool has no word for.
        """
