"""A model from a package, as the verbs that compare and search take models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tightship.core.model import Model
from tightship.search import Source

__all__ = ["PackedSource", "Source"]


@dataclass(frozen=True)
class PackedSource(Source):
    """A model from a package; what it is run from stays in memory."""

    @property
    def loadable(self) -> Path | Model:
        return self.model
