"""A worker follows what is wanted: loads, routes, unloads, in an order in which no request finds nothing.

Routes change only to versions that are loaded here; a version is unloaded only after the routes have left it. What is
loaded may crash: it is written down before, and while this worker answers, one at a time tries what is new (`deaths`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from tightship.errors import ServeError, StateError
from tightship.serve.database import Database
from tightship.serve.deaths import Crashing
from tightship.serve.observations import Observations
from tightship.serve.rollout.controller import Rollouts
from tightship.serve.rollout.disagreement import MEASURES
from tightship.serve.rollout.interface import Interface, misfit
from tightship.serve.rollout.records import Records
from tightship.serve.routing import Routes
from tightship.serve.state import Desired, State, WantedModel, WantedVersion
from tightship.serve.workers import Version, Workers

__all__ = ["Catalogue", "Reconciler"]

FLUSH_S = 0.5
TURN_S = 0.1
"""How often a worker that waits for its turn to load something looks."""

AGAIN_S = 2.0
"""When a version is tried again that could not be loaded because the database could not be used."""


class Catalogue(Protocol):
    """The models of one worker, as far as a reconciler changes them. Methods are called by one thread at a time."""

    def load(self, name: str, version: str, path: str, digest: str = "") -> Interface:
        """Load and warm a version, which nobody is routed to yet. Raises whatever is wrong with it."""
        ...

    def try_apart(self, path: str, stop: threading.Event) -> str:
        """Load a version in another process; return how that was killed, or an empty text."""
        ...

    def route(self, name: str, routes: Routes) -> None:
        """Say which versions of a model answer."""
        ...

    def unload(self, name: str, version: str) -> None:
        """Take a version away, once the requests that it is answering are answered."""
        ...


@dataclass(frozen=True)
class _Problem:
    """Why a version could not be loaded, since when that was wanted, and when it is to be tried again."""

    wanted_since: int
    why: str
    until: float = float("inf")


class Reconciler:
    """Keeps one worker's catalogue as the database wants it, and takes the steps of rollouts that are due."""

    def __init__(self, database: Database, catalogue: Catalogue, observations: Observations) -> None:
        self._state = State(database)
        self._workers = Workers(database)
        self._rollouts = Rollouts(self._state, self._workers)
        self._catalogue = catalogue
        self._observations = observations
        self._loader = ThreadPoolExecutor(1, "tightship-loader")
        self._loading: dict[Version, tuple[WantedVersion, Future[Interface | None]]] = {}
        self._loaded: dict[Version, tuple[str, Interface]] = {}  # version -> digest, what it takes and gives
        self._problems: dict[Version, _Problem] = {}
        self._survived: set[str] = set()  # digests of what was loaded here
        self._answers = False  # all that answers has been loaded or was tried
        self._closing = threading.Event()
        self._routes: dict[str, Routes] = {}
        self._seen = -1
        self._desired = Desired(-1, {})
        self._reported: object = None
        self._flushed = 0.0
        self.worker = self._workers.register()

    def tick(self) -> None:
        """Look whether anything changed, and follow; called a few times a second by one thread, never the event loop's.

        Loading goes on in another thread meanwhile. Raises `StateError` where the database cannot be used.
        """
        now = time.monotonic()
        if now - self._flushed >= FLUSH_S:
            self._flushed = now
            self._flush()
            self._workers.bury()
            self._rollouts.step()
        version = self._state.database.data_version()
        if version != self._seen:
            self._seen = version
            self._look()
        self._collect()
        self._follow()

    def settle(self, timeout_s: float = 300.0, candidates: bool = True) -> Mapping[Version, str]:
        """Follow until all that is wanted is loaded or was tried; return what should answer and could not be loaded.

        A candidate that could not is its rollout's affair, and without `candidates` it is not waited for. Raises
        `StateError` where it takes longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.tick()
            waiting = [version for version in self._loading if candidates or self._stable(version)]
            if not waiting:
                self._answers = True
                return {version: found.why for version, found in self._problems.items() if self._stable(version)}
            if time.monotonic() > deadline:
                names = ", ".join(f"{model} {version}" for model, version in waiting)
                raise StateError(f"{names} could not be loaded within {timeout_s:g} s")
            time.sleep(0.005)

    def close(self) -> None:
        """Write down what was counted, leave the list of workers, and load no more."""
        self._closing.set()
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._flush()
        self._workers.leave(self.worker)

    def _flush(self) -> None:
        increments = self._observations.take()
        if increments:
            with self._state.database.transaction() as connection:
                Records(connection).observe(increments)

    def _look(self) -> None:
        """Read what is wanted, where it changed. Counts of others change the database, but not the revision."""
        if self._state.revision() != self._desired.revision:
            self._desired = self._state.desired()
            wanted = {version: self._wants(version) for version in self._problems}
            self._problems = {
                version: problem
                for version, problem in self._problems.items()
                if (found := wanted[version]) is not None and found.wanted_since == problem.wanted_since
            }

    def _stable(self, version: Version) -> bool:
        model = self._desired.models.get(version[0])
        return model is not None and model.routes.stable == version[1]

    def _wants(self, version: Version) -> WantedVersion | None:
        """A version, if it should be loaded."""
        model = self._desired.models.get(version[0])
        found = None if model is None else model.find(version[1])
        return found if found is not None and found.wanted else None

    def _collect(self) -> None:
        for version, (wanted, future) in list(self._loading.items()):
            if not future.done():
                continue
            del self._loading[version]
            error = future.exception()
            if error is None:
                loaded = future.result()
                if loaded is not None:
                    self._take_in(version, wanted, loaded)
            elif not isinstance(error, Exception):
                raise error
            else:
                self._problems[version] = _Problem(
                    wanted.wanted_since, str(error) or type(error).__name__, _until(error)
                )

    def _take_in(self, version: Version, wanted: WantedVersion, loaded: Interface) -> None:
        """Have a version ready, unless it could not stand in for the one that answers."""
        model = self._desired.models.get(version[0])
        stable = None if model is None else self._loaded.get((version[0], model.routes.stable))
        problem = "" if stable is None else misfit(stable[1], loaded)
        if problem:
            self._catalogue.unload(*version)
            self._problems[version] = _Problem(wanted.wanted_since, problem)
        else:
            self._loaded[version] = wanted.digest, loaded

    def _follow(self) -> None:
        for model in self._desired.models.values():
            self._route(model)
        self._unload()
        self._load()
        self._report()

    def _route(self, model: WantedModel) -> None:
        routes = model.routes
        if (model.name, routes.stable) not in self._loaded:
            return  # who answered until now goes on
        if model.by_worker:
            living = [report.id for report in self._workers.living()]
            rank = living.index(self.worker) if self.worker in living else len(living)
            routes = model.routes_of(rank, len(living))
        if routes.candidate is not None and (model.name, routes.candidate) not in self._loaded:
            routes = Routes(routes.stable)
        self._watch(model, routes)
        if self._routes.get(model.name) != routes:
            self._catalogue.route(model.name, routes)
            self._routes[model.name] = routes

    def _watch(self, model: WantedModel, routes: Routes) -> None:
        watch = model.watch
        if watch is None or routes.candidate is None:
            self._observations.stop(model.name)
            return
        versions = (routes.stable, routes.candidate)
        key = (watch.rollout, watch.step)
        self._observations.watch(model.name, key, versions, MEASURES[watch.measure], model.routes.share == 0)

    def _unload(self) -> None:
        stable = {(model.name, model.routes.stable) for model in self._desired.models.values()}
        for version in sorted(self._loaded, key=lambda version: version in stable):  # who answers goes last
            digest, _ = self._loaded[version]
            wanted = self._wants(version)
            if (wanted is not None and wanted.digest == digest) or version[1] in self._answering(version[0]):
                continue
            self._catalogue.unload(*version)
            del self._loaded[version]

    def _answering(self, model: str) -> tuple[str | None, ...]:
        """The versions that requests may go to here."""
        wanted = self._desired.models.get(model)
        if wanted is None or not wanted.served:
            self._routes.pop(model, None)
            return ()
        routes = self._routes.get(model)
        return () if routes is None else (routes.stable, routes.candidate)

    def _load(self) -> None:
        """Begin to load what is wanted and not known: what answers first, and then what is only tried."""
        now = time.time()
        wanted = {
            (model.name, found.version): found
            for model in self._desired.models.values()
            for found in model.versions
            if found.wanted
        }
        for version in sorted(wanted, key=lambda version: not self._stable(version)):
            problem = self._problems.get(version)
            rests = problem is not None and now < problem.until
            if not (rests or version in self._loading or version in self._loaded):
                self._problems.pop(version, None)
                in_turn = self._answers or not self._stable(version)
                future = self._loader.submit(self._load_one, version, wanted[version], in_turn)
                self._loading[version] = wanted[version], future

    def _load_one(self, version: Version, wanted: WantedVersion, in_turn: bool) -> Interface | None:
        """On the loader's thread: wait for this worker's turn, write down what is tried, and load it.

        What no worker has loaded another process loads first, so that no worker that answers is risked. Returns None
        where it is not wanted any more.
        """
        while not self._workers.begin_loading(self.worker, version, in_turn):
            if self._closing.wait(TURN_S) or self._wants(version) is None:
                return None
        try:
            if in_turn and wanted.digest not in self._survived and not self._workers.have(version):
                killed = self._catalogue.try_apart(wanted.path, self._closing)
                if killed:
                    raise ServeError(killed)
            loaded = self._catalogue.load(*version, wanted.path, wanted.digest)
            self._survived.add(wanted.digest)
            return loaded
        finally:
            self._workers.end_loading(self.worker, version)

    def _report(self) -> None:
        loaded = dict.fromkeys(self._loaded, "") | {version: found.why for version, found in self._problems.items()}
        report = (self._desired.revision, loaded)
        if report != self._reported:
            self._workers.report(self.worker, *report)
            self._reported = report


def _until(error: Exception) -> float:
    """Return when loading is to be tried again after this."""
    if isinstance(error, Crashing):
        return error.until
    return time.time() + AGAIN_S if isinstance(error, StateError) else float("inf")
