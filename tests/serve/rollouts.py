"""What the tests of rollouts share: a state with workers whose catalogues are dictionaries, and a model in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tightship.core.specs import TensorSpec
from tightship.serve.database import Database
from tightship.serve.observations import Observations
from tightship.serve.packages import Stored
from tightship.serve.reconcile import Reconciler
from tightship.serve.rollout.controller import Rollouts
from tightship.serve.rollout.records import Rollout
from tightship.serve.rollout.strategies import Limits, Plan, make_plan
from tightship.serve.routing import Routes
from tightship.serve.state import ADMIN, State
from tightship.serve.workers import Workers

QUICK = Limits(min_requests=20)


@dataclass(frozen=True)
class Loaded:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "float32", ("N", 2)),)


@dataclass
class FakeCatalogue:
    """Keeps what a worker loaded, and checks at every change that routes lead only to what is loaded."""

    loaded: dict[tuple[str, str], str] = field(default_factory=dict)
    routes: dict[str, Routes] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)  # version -> why it cannot be loaded
    crashing: dict[str, str] = field(default_factory=dict)  # version -> what kills who loads it
    takes: dict[str, tuple[TensorSpec, ...]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def load(self, name: str, version: str, path: str, digest: str = "") -> Loaded:
        if version in self.broken:
            raise ValueError(self.broken[version])
        self.loaded[name, version] = path
        self.log.append(f"load {version}")
        return Loaded(self.takes.get(version, (TensorSpec("x", "float32", ("N", 4)),)))

    def try_apart(self, path: str, stop: threading.Event) -> str:
        self.log.append(f"try {Path(path).stem}")
        return self.crashing.get(Path(path).stem, "")

    def route(self, name: str, routes: Routes) -> None:
        for version in (routes.stable, routes.candidate):
            assert version is None or (name, version) in self.loaded, f"a route to {version}, which is not loaded"
        self.routes[name] = routes
        self.log.append(f"route {routes.stable} {routes.candidate} {routes.share:g}")

    def unload(self, name: str, version: str) -> None:
        routes = self.routes.get(name)
        del self.loaded[name, version]
        if routes is not None and any(model == name for model, _ in self.loaded):
            assert version not in (routes.stable, routes.candidate), f"{version} is unloaded while it answers"
        self.log.append(f"unload {version}")


@dataclass
class Worker:
    """One worker: what it has loaded, what it has seen, and what keeps it as it should be."""

    catalogue: FakeCatalogue
    observations: Observations
    reconciler: Reconciler

    def answer(self, model: str, draw: float, wrong: Callable[[str], bool], seconds: Callable[[str], float]) -> str:
        """Do what the server does with one request: choose, run, count, copy, compare; return who answered."""
        choice = self.catalogue.routes[model].choose(None, None, draw)
        bad = wrong(choice.version)
        self.observations.add(model, choice.version, seconds(choice.version), bad)
        if choice.shadow is not None and not bad:
            failed = wrong(choice.shadow)
            self.observations.add(model, choice.shadow, seconds(choice.shadow), failed, shadow=True)
            if not failed:
                outputs = [{"y": np.array([[1.0, 0.0]])}] * 2
                self.observations.compare(model, choice.version, choice.shadow, outputs[0], outputs[1])
        return choice.version


class House:
    """A state in a folder, with some workers in this process."""

    def __init__(self, folder: Path, n_workers: int = 1) -> None:
        self.folder = folder
        self.database = Database(folder / "state.sqlite")
        self.state = State(self.database)
        self.registered = Workers(self.database)
        self.rollouts = Rollouts(self.state, self.registered)
        self.workers = [self.worker() for _ in range(n_workers)]

    def worker(self) -> Worker:
        catalogue, observations = FakeCatalogue(), Observations()
        return Worker(catalogue, observations, Reconciler(Database(self.database.path), catalogue, observations))

    def stored(self, version: str, name: str = "net") -> Stored:
        path = self.folder / f"{version}.ship"
        path.touch()
        return Stored(version.rjust(64, "0"), path, name, version, f"/home/ann/{version}.ship")

    def serve(self, version: str = "1", model: str = "net") -> None:
        with self.state.change("ann") as change:
            change.adopt(model, self.stored(version))
            change.add_model(model, version, ADMIN)
        self.tick()

    def tick(self, times: int = 1) -> None:
        """Let every worker look, until what it loads is loaded."""
        for _ in range(times):
            for worker in self.workers:
                worker.reconciler._flushed = -1e9  # the time of the next look has come
                worker.reconciler.settle(10)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Let the workers look all the time, from another thread."""
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(0.005):
                self.tick()

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def start(self, version: str = "2", plan: Plan | None = None) -> Rollout:
        plan = plan or make_plan("canary", [0.05, 0.5, 1.0], every_s=0.0, limits=QUICK)
        return self.rollouts.start("net", self.stored(version), plan, "ann", "better")

    def find(self, rollout: Rollout) -> Rollout:
        found = self.rollouts.find(rollout.id)
        assert found is not None
        return found

    def answers(
        self,
        n: int,
        wrong: Callable[[str], bool] = lambda version: False,
        seconds: Callable[[str], float] = lambda version: 0.01,
        seed: int = 0,
    ) -> list[str]:
        rng = np.random.default_rng(seed)
        return [self.workers[i % len(self.workers)].answer("net", rng.random(), wrong, seconds) for i in range(n)]

    def close(self) -> None:
        for worker in self.workers:
            worker.reconciler.close()
        self.database.close()
