"""The protocol's repository calls: what is there, loading and unloading; for HTTP and gRPC alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tightship.serve.catalogue import Catalogue
from tightship.serve.failures import BadRequest

if TYPE_CHECKING:
    from tightship.serve.deployment import Deployment

__all__ = ["IndexRow", "Repository"]


@dataclass(frozen=True)
class IndexRow:
    """A version that the server knows, and why it is not served where it is not."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str = ""


@dataclass(frozen=True)
class Repository:
    """What is wanted, as the state says, and what this worker has of it. All of it blocks."""

    catalogue: Catalogue
    deployment: Deployment | None

    def index(self) -> list[IndexRow]:
        """Return every known version, by name."""
        loaded = {(one.name, one.version) for one in self.catalogue.versions()}
        if self.deployment is None:
            return [IndexRow(name, version, "READY") for name, version in sorted(loaded)]
        problems: dict[tuple[str, str], str] = {}
        for report in self.deployment.workers.living():
            problems |= {which: problem for which, problem in report.loaded.items() if problem}
        return [
            self._row(model.name, version.version, version.wanted, loaded, problems)
            for model in self.deployment.state.desired().models.values()
            for version in model.versions
        ]

    def load(self, name: str, path: str, who: str) -> str:
        """Serve a model: what is known by that name, or the package at `path` as its newest version; return that.

        Raises `NoSuchModel`, `Conflict`, or what opening the package raises.
        """
        deployment = self._deployment()
        return deployment.load(name, deployment.packages.accept(path) if path else None, who)

    def unload(self, name: str, who: str) -> None:
        """Serve a model no more. Raises `NoSuchModel`."""
        self._deployment().unload(name, who)

    def _deployment(self) -> Deployment:
        if self.deployment is None:
            raise BadRequest("this server has no state; its models are those that it was started with")
        return self.deployment

    @staticmethod
    def _row(
        name: str, version: str, wanted: bool, loaded: set[tuple[str, str]], problems: dict[tuple[str, str], str]
    ) -> IndexRow:
        which = (name, version)
        if problems.get(which):
            return IndexRow(name, version, "UNAVAILABLE", problems[which])
        if not wanted:
            return IndexRow(name, version, "UNAVAILABLE", "unloaded")
        return IndexRow(name, version, "READY" if which in loaded else "LOADING")
