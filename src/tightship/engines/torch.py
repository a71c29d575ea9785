"""PyTorch itself, eager: the baseline of a model that comes as a module."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tightship.core import extras
from tightship.core.model import Form, Model
from tightship.core.session import Session
from tightship.core.target import Precision, Target
from tightship.engines.engine import Engine

__all__ = ["Torch"]


class Torch(Engine):
    """Modules run by PyTorch on the CPU."""

    name: ClassVar[str] = "torch"
    module: ClassVar[str] = "torch"
    form: ClassVar[Form] = "module"
    gives: ClassVar[str] = "PyTorch models (.pt2, modules and their weights)"

    def precisions(self) -> tuple[Precision, ...]:
        return ("f32",)

    def open(self, source: Model | Path | bytes, target: Target) -> Session:
        extras.require(self.module, "the torch engine")
        raise NotImplementedError
