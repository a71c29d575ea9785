"""The model as the user gave it: what every candidate is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tightship import engines
from tightship.core.artifact import Artifact
from tightship.core.model import Model
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.formats import FORMATS

__all__ = ["Source"]


ENGINE_OF_FORM = {"module": "torch", "keras": "tensorflow"}


@dataclass(frozen=True)
class Source:
    """An artifact, what was read from it, its digest and the target it runs on as it is (the baseline)."""

    artifact: Artifact
    model: Model
    digest: str
    target: Target

    @classmethod
    def of(cls, artifact: Artifact, model: Model, threads: int = 0, device: bool = False) -> Source:
        """Take the engine that is native to the form, for a graph that of the format.

        A file that nothing here runs is run as the graph that it was read into; with `device` by what it is for.
        """
        entry = FORMATS[artifact.format]
        native = entry.device_engine if device else ""
        engine = native or ENGINE_OF_FORM.get(model.form) or entry.engine or "onnxruntime"
        return cls(artifact, model, artifact.digest(), Target(engine, threads=threads))

    @property
    def loadable(self) -> Path | Model:
        """What its engine opens: the file where it is one of its own that was read into a graph, else the model."""
        entry = FORMATS[self.artifact.format]
        of_file = self.model.form == "graph" and self.target.engine in (entry.engine, entry.device_engine)
        return self.artifact.path if of_file else self.model

    def open(self, exact: bool = False) -> Session:
        """Load the source on its own target; `exact` as in `Target`."""
        return engines.open_session(self.loadable, replace(self.target, exact=exact))
