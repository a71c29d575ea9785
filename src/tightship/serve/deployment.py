"""What a server is told to serve: at its start, and by the repository calls of the protocol.

A new version of a model that is served takes over at once here, as soon as every worker has it; a rollout with a
strategy is the careful way. Every call waits until all living workers have followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tightship.errors import UsageError
from tightship.serve.failures import BadRequest
from tightship.serve.packages import Packages, Stored
from tightship.serve.rollout.controller import Rollouts
from tightship.serve.rollout.records import Records
from tightship.serve.state import ADMIN, START, Change, Desired, State, WantedModel
from tightship.serve.workers import Workers, problem_of

__all__ = ["Deployment"]

KEPT_VERSIONS = 3
KEPT_OBSERVATIONS = 100
"""Versions before the stable one that can come back, and rollouts whose observations are kept."""


@dataclass(frozen=True)
class Deployment:
    """The verbs, on one state, its workers and its copies of packages. They block: not for an event loop's thread."""

    state: State
    workers: Workers
    packages: Packages
    rollouts: Rollouts

    def start(self, sources: Sequence[str], who: str = "start") -> tuple[str, ...]:
        """Want these packages and model files, and what administrators loaded before; return the names of the models.

        A package that the server has seen before changes nothing: what a rollout decided outlives a restart with the
        same command. A new one answers at once. Models that only an earlier start named are no longer served. Called
        before there are workers.
        """
        accepted = [self.packages.accept(source) for source in sources]
        _check_distinct(accepted)
        self.workers.clear()
        with self.state.change(who) as change:
            known = change.desired()
            for stored in accepted:
                _start_one(change, self.rollouts, known, stored)
            for model in known.models.values():
                if accepted and model.origin == START and all(model.name != stored.name for stored in accepted):
                    change.unload(model.name)
            desired = change.desired()
            for model in desired.models.values():
                change.forgive(model.name, model.routes.stable)
        self.tidy()
        return tuple(model.name for model in desired.models.values() if model.served)

    def tidy(self) -> None:
        """Forget versions that nobody will go back to, and remove their copies."""
        with self.state.database.transaction() as connection:
            change, records = Change(connection, "server", 0), Records(connection)
            for model in change.desired().models.values():
                for version in _past(model, records):
                    change.remove_version(model.name, version)
            records.prune(KEPT_OBSERVATIONS)
            desired = change.desired()
        self.packages.sweep(version.path for model in desired.models.values() for version in model.versions)

    def load(self, name: str, stored: Stored | None, who: str, timeout_s: float = 120.0) -> str:
        """Serve a model: what is known by that name, or `stored` as its version; return the version that answers.

        Raises `NoSuchModel` where nothing is known, `Conflict` while a rollout of it runs, and `BadRequest` with the
        reason where a worker cannot load it; then all is as it was.
        """
        before = self.state.desired()
        if stored is not None and name in before.models and before.models[name].served:
            return self.rollouts.switch(name, stored, who, timeout_s)
        with self.state.change(who) as change:
            before = change.desired()
            version = before.find(name).routes.stable if stored is None else change.adopt(name, stored)
            change.want(name, version, True)
            change.forgive(name, version)
            change.add_model(name, version, ADMIN)
            change.note("load", name, version)
        problem = self._problem(change.revision, name, version, timeout_s)
        if problem:
            self._undo(before, name, version, who, problem)
            raise BadRequest(f"version {version} of {name} cannot be served: {problem}; all is as it was before")
        return version

    def unload(self, name: str, who: str, timeout_s: float = 60.0) -> None:
        """Serve a model no more; requests that are being answered still are. Raises `NoSuchModel`."""
        with self.state.change(who) as change:
            model = change.desired().find(name)
            self.rollouts.drop(change, name, "the model was unloaded")
            change.add_model(name, model.routes.stable, ADMIN)
            change.unload(name)
            change.note("unload", name)
        self.workers.wait_until_applied(change.revision, timeout_s)

    def _problem(self, revision: int, name: str, version: str, timeout_s: float) -> str:
        reports = self.workers.wait_until_applied(revision, timeout_s, (name, version))
        return problem_of(reports, name, version)

    def _undo(self, before: Desired, name: str, version: str, who: str, problem: str) -> None:
        with self.state.change(who) as change:
            model = before.models.get(name)
            if model is None:
                change.remove_model(name)
            else:
                change.add_model(name, model.routes.stable, model.origin)
                change.want(name, version, False)
            change.note("load failed", name, version, problem)


def _past(model: WantedModel, records: Records) -> list[str]:
    needed = {model.routes.stable, model.routes.candidate}
    needed |= {version for rollout in records.running(model.name) for version in (rollout.old, rollout.new)}
    needed |= set(records.lineage(model.name, model.routes.stable, KEPT_VERSIONS))
    return [known.version for known in model.versions if not known.wanted and known.version not in needed]


def _start_one(change: Change, rollouts: Rollouts, known: Desired, stored: Stored) -> None:
    model = known.models.get(stored.name)
    if model is not None and any(version.digest == stored.digest for version in model.versions):
        change.want(model.name, model.routes.stable, True)
        return
    version = change.adopt(stored.name, stored)
    if model is not None:
        rollouts.drop(change, model.name, "the server was started with another version")
        rollouts.record_switch(change, model.name, model.routes.stable, version)
        change.want(model.name, model.routes.stable, False)
    change.add_model(stored.name, version, START)
    change.note("start", stored.name, version, stored.source)


def _check_distinct(accepted: Sequence[Stored]) -> None:
    names = [stored.name for stored in accepted]
    for stored in accepted:
        if names.count(stored.name) > 1:
            both = " and ".join(other.source for other in accepted if other.name == stored.name)
            raise UsageError(
                f"{both} are both called {stored.name}; pack one under another name (tightship pack --name)"
            )
