"""What an engine is: its name, what it can do on this machine, and how it opens a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from tightship.core import extras
from tightship.core.model import Form, Model
from tightship.core.session import Session
from tightship.core.target import Precision, Target

__all__ = ["Engine"]


class Engine(ABC):
    """One runtime. `module` is what it imports, `form` the form of Model it opens, `gives` a line for `doctor`.

    `form` is None for an engine that opens files of its own format only.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    form: ClassVar[Form | None]
    gives: ClassVar[str]

    @property
    def available(self) -> bool:
        """Whether its library is installed; nothing is imported."""
        return extras.available(self.module)

    @abstractmethod
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions of float arithmetic that this processor and engine run in hardware."""

    @abstractmethod
    def open(self, source: Model | Path | bytes, target: Target) -> Session:
        """Load a model. Raises `MissingExtra` or `EngineError`; a form other than `form` is a `EngineError`."""
