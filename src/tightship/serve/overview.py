"""All that the console shows, as one value: what is served, how it does, and the rollouts that run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import tightship
from tightship.core.specs import TensorSpec
from tightship.errors import TightshipError
from tightship.package.opening import is_package
from tightship.package.processing import Processing
from tightship.serve.loaded import LoadedModel
from tightship.serve.metrics import LATENCY_BOUNDS, Series
from tightship.serve.rollout.records import Rollout
from tightship.serve.rollout.status import Status, history, status_of
from tightship.serve.routing import Routes
from tightship.serve.service import Service
from tightship.serve.snapshots import Totals
from tightship.serve.state import Desired, WantedModel

__all__ = ["ModelView", "Overview", "Overviews", "ServerView", "VersionView"]

FRESH_S = 0.4
"""Several people who look at once share one overview."""

N_ROLLOUTS = 6


@dataclass(frozen=True)
class ServerView:
    """The server as a whole. `now` and `started` are seconds since the epoch."""

    version: str
    now: float
    started: float
    workers: int
    resident_bytes: int
    cpu_s: float
    draining: bool
    refused: Mapping[str, int]
    revision: int


@dataclass(frozen=True)
class PackageFacts:
    """What a package says of itself; of a sealed one, or a plain file, nothing."""

    intended_use: str = ""
    licence: str = ""
    verdict: str = ""
    made_by: str = ""
    metrics: Mapping[str, float] | None = None
    report: bool = False
    sealed: bool = False


@dataclass(frozen=True)
class VersionView:
    """One version: `role` is stable, candidate or spare; `state` ready, loading, failed (with the problem) or kept.

    Counts only grow; `latency` counts requests per bucket of `Overview.latency_bounds_s`, and what is beyond.
    `takes` is image, text, audio or nothing, `content_types` what may be posted beside tensors.
    """

    version: str
    role: str
    state: str
    problem: str
    digest: str
    source: str
    added_at: float
    target: str
    load_s: float
    batches: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    takes: str
    content_types: tuple[str, ...]
    processing: Processing | None
    package: PackageFacts
    requests: int
    failures: Mapping[str, int]
    latency: list[int]
    latency_sum_s: float
    queued: int
    running: int


@dataclass(frozen=True)
class ModelView:
    """One model: who answers, its versions, the rollout that runs, and those that ended, the newest first."""

    name: str
    ready: bool
    routes: Routes | None
    versions: tuple[VersionView, ...]
    rollout: Status | None
    ended: tuple[Rollout, ...]


@dataclass(frozen=True)
class Overview:
    """What `GET /console/overview` answers."""

    server: ServerView
    models: tuple[ModelView, ...]
    latency_bounds_s: tuple[float, ...] = LATENCY_BOUNDS


class Overviews:
    """Makes overviews for one worker, and remembers what packages say of themselves."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._facts: dict[str, PackageFacts] = {}
        self._last: tuple[float, Overview] | None = None

    def overview(self) -> Overview:
        """Return the state of this moment. Reads files: not for the event loop's thread."""
        if self._last is not None and time.monotonic() - self._last[0] < FRESH_S:
            return self._last[1]
        made = self._made()
        self._last = (time.monotonic(), made)
        return made

    def report(self, model: str, version: str) -> bytes | None:
        """Return the report of a version's package, or None where it has none; raises `NoSuchModel`."""
        loaded = self._service.catalogue.find(model, version)
        if not self.facts(loaded.path).report:
            return None
        with self._service.settings.keys.open(loaded.path) as package:
            return bytes(package.read("report.html"))

    def facts(self, path: str) -> PackageFacts:
        """Return what the package at a path says of itself."""
        if path not in self._facts:
            self._facts[path] = self._read_facts(path)
        return self._facts[path]

    def _made(self) -> Overview:
        service = self._service
        totals = self._totals()
        desired = service.deployment.state.desired() if service.deployment is not None else Desired(0, {})
        known = {**dict.fromkeys(service.catalogue.models), **dict.fromkeys(desired.models)}
        server = ServerView(
            version=tightship.__version__,
            now=time.time(),
            started=totals.started,
            workers=totals.workers,
            resident_bytes=totals.resident_bytes,
            cpu_s=totals.cpu_s,
            draining=service.draining,
            refused=totals.refused,
            revision=desired.revision,
        )
        return Overview(server, tuple(self._model(name, desired.models.get(name), totals) for name in sorted(known)))

    def _totals(self) -> Totals:
        service = self._service
        if service.metrics_folder is not None:
            return service.metrics_folder.totals()
        own = service.metrics.snapshot()
        return Totals(own.series, own.refused, 1, own.resident_bytes, own.cpu_s, own.started)

    def _model(self, name: str, wanted: WantedModel | None, totals: Totals) -> ModelView:
        served = self._service.catalogue.models.get(name)
        routes = wanted.routes if wanted is not None else served.routes if served is not None else None
        loaded = dict(served.versions) if served is not None else {}
        stated = [entry.version for entry in wanted.versions] if wanted is not None else []
        versions = tuple(
            self._version(name, version, wanted, routes, loaded.get(version), totals.of(name, version))
            for version in dict.fromkeys([*stated, *loaded])
        )
        running, ended = self._rollouts(name)
        ready = any(version.role == "stable" and version.state == "ready" for version in versions)
        return ModelView(name, ready, routes, versions, running, ended)

    def _version(
        self,
        model: str,
        version: str,
        wanted: WantedModel | None,
        routes: Routes | None,
        loaded: LoadedModel | None,
        series: Series,
    ) -> VersionView:
        entry = wanted.find(version) if wanted is not None else None
        state, problem = self._state(model, version, loaded, entry is None or entry.wanted)
        processor = loaded.processor if loaded is not None else None
        path = loaded.path if loaded is not None else entry.path if entry is not None else ""
        return VersionView(
            version=version,
            role=_role(version, routes),
            state=state,
            problem=problem,
            digest=entry.digest if entry is not None else loaded.digest if loaded is not None else "",
            source=entry.source if entry is not None else "",
            added_at=entry.added_at if entry is not None else 0.0,
            target=str(loaded.target) if loaded is not None else "",
            load_s=loaded.load_s if loaded is not None else 0.0,
            batches=loaded is not None and loaded.batches,
            inputs=loaded.inputs if loaded is not None else (),
            outputs=loaded.outputs if loaded is not None else (),
            takes=processor.kind if processor is not None else "",
            content_types=processor.content_types if processor is not None else (),
            processing=processor.declared if processor is not None else None,
            package=self.facts(path),
            requests=series.requests,
            failures=series.failures,
            latency=series.latency,
            latency_sum_s=series.latency_sum_s,
            queued=series.queued,
            running=series.running,
        )

    def _state(self, model: str, version: str, loaded: LoadedModel | None, wanted: bool) -> tuple[str, str]:
        """How a version stands over all workers, and what went wrong."""
        if loaded is not None:
            return "ready", ""
        if not wanted:
            return "kept", ""
        deployment = self._service.deployment
        reports = deployment.workers.living() if deployment is not None else ()
        problem = next((text for report in reports if (text := report.loaded.get((model, version)))), "")
        return ("failed", problem) if problem else ("loading", "")

    def _rollouts(self, model: str) -> tuple[Status | None, tuple[Rollout, ...]]:
        deployment = self._service.deployment
        if deployment is None:
            return None, ()
        found = history(deployment.rollouts, model, N_ROLLOUTS)
        running = next((status_of(deployment.rollouts, one) for one in found if not one.ended), None)
        return running, tuple(one for one in found if one.ended)

    def _read_facts(self, path: str) -> PackageFacts:
        if not path or not is_package(path):
            return PackageFacts()
        try:
            with self._service.settings.keys.open(path) as package:
                if package.envelope.sealed:
                    return PackageFacts(sealed=True)
                found = package.manifest
                report = "report.html" in found.files
                return PackageFacts(
                    found.intended_use, found.licence, found.verdict, found.made_by, found.metrics, report
                )
        except TightshipError:  # a package that is gone or damaged is told where it is loaded
            return PackageFacts()


def _role(version: str, routes: Routes | None) -> str:
    if routes is not None and version == routes.stable:
        return "stable"
    return "candidate" if routes is not None and version == routes.candidate else "spare"
