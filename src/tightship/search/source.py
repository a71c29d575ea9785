"""The model as the user gave it: what every candidate is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tightship import engines
from tightship.core.artifact import Artifact
from tightship.core.model import Model
from tightship.core.session import Session
from tightship.core.target import Target

__all__ = ["Source"]

ENGINE_OF_FORM = {"graph": "onnxruntime", "module": "torch"}


@dataclass(frozen=True)
class Source:
    """An artifact, what was read from it, its digest and the target it runs on as it is (the baseline)."""

    artifact: Artifact
    model: Model
    digest: str
    target: Target

    @classmethod
    def of(cls, artifact: Artifact, model: Model, threads: int = 0) -> Source:
        """Take the engine that is native to the form: ONNX Runtime for graphs, PyTorch for modules."""
        return cls(artifact, model, artifact.digest(), Target(ENGINE_OF_FORM[model.form], threads=threads))

    @property
    def loadable(self) -> Path | Model:
        """What its engine opens: the file of a graph, the model itself where it is a module."""
        return self.artifact.path if self.model.form == "graph" else self.model

    def open(self) -> Session:
        """Load the source on its own target."""
        return engines.open_session(self.loadable, self.target)
