"""What HTTP and gRPC share in one worker: its parts, and how a request runs, is observed and is copied to a shadow."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tightship.core.session import Arrays
from tightship.serve.access import Access
from tightship.serve.catalogue import Catalogue
from tightship.serve.failures import RequestFailure
from tightship.serve.hosts import Hosts
from tightship.serve.loaded import LoadedModel
from tightship.serve.logs import RequestLog
from tightship.serve.metrics import Metrics
from tightship.serve.observations import Observations
from tightship.serve.repository import IndexRow, Repository
from tightship.serve.settings import ServeSettings

if TYPE_CHECKING:
    from tightship.serve.deployment import Deployment
    from tightship.serve.snapshots import MetricsFolder
    from tightship.serve.tracing import Tracing

__all__ = ["Posted", "Service"]

Posted = tuple[bytes, str]
"""A body and its content type: a picture, a text or a sound."""

MAX_SHADOWS = 32
"""Copies under way at once; what comes on top is not copied, so that a slow candidate holds nothing up."""


@dataclass
class Service:
    """The parts of one worker. `deployment` and `metrics_folder` are None where there is no state: in a benchmark.

    `hosts` is None where requests may name any.
    """

    settings: ServeSettings
    catalogue: Catalogue
    metrics: Metrics
    access: Access | None = None
    hosts: Hosts | None = None
    observations: Observations = field(default_factory=Observations)
    log: RequestLog = field(default_factory=RequestLog)
    tracing: Tracing | None = None
    deployment: Deployment | None = None
    metrics_folder: MetricsFolder | None = None
    draining: bool = False
    _shadows: set[asyncio.Task[None]] = field(default_factory=set)

    async def infer(
        self,
        loaded: LoadedModel,
        shadow: LoadedModel | None,
        arrays: Arrays,
        deadline: float = 0.0,
        posted: Posted | None = None,
    ) -> Arrays:
        """Run one request on the version that was chosen for it, and a copy on its shadow.

        `arrays` were checked against `loaded.signature`, `deadline` is a moment of `time.monotonic` or 0. `posted` is
        what the arrays were prepared from, if it was no tensors: another version may prepare it in another way. Raises
        a `RequestFailure`.
        """
        if self.plain(loaded, shadow):
            return await loaded.infer(arrays, deadline)
        return await self._watched(loaded, shadow, arrays, deadline, posted)

    def plain(self, loaded: LoadedModel, shadow: LoadedModel | None) -> bool:
        """Whether a request is only to be run: there is no rollout to be observed."""
        return shadow is None and not self.observations.watching(loaded.name)

    async def _watched(
        self, loaded: LoadedModel, shadow: LoadedModel | None, arrays: Arrays, deadline: float, posted: Posted | None
    ) -> Arrays:
        """Run a request of a model that is in a rollout."""
        started = time.perf_counter()
        try:
            outputs = await loaded.infer(arrays, deadline)
        except RequestFailure as failure:
            if failure.http_status >= 500:
                self.observations.add(loaded.name, loaded.version, time.perf_counter() - started, True)
            raise
        self.observations.add(loaded.name, loaded.version, time.perf_counter() - started, False)
        if shadow is not None and len(self._shadows) < MAX_SHADOWS:
            task = asyncio.get_running_loop().create_task(self._copy(loaded, shadow, arrays, outputs, posted))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)
        return outputs

    def index(self) -> list[IndexRow]:
        """Return every version that is known. Blocks, as `load` and `unload` do: see `Repository`."""
        return Repository(self.catalogue, self.deployment).index()

    def load(self, name: str, path: str, who: str) -> str:
        """Serve a model, from the package at `path` where one is named; return the version that answers."""
        return Repository(self.catalogue, self.deployment).load(name, path, who)

    def unload(self, name: str, who: str) -> None:
        """Serve a model no more."""
        Repository(self.catalogue, self.deployment).unload(name, who)

    @property
    def ready(self) -> bool:
        """Whether every model answers and the server is not going down."""
        return not self.draining and self.catalogue.ready

    async def _copy(
        self, loaded: LoadedModel, shadow: LoadedModel, arrays: Arrays, outputs: Arrays, posted: Posted | None
    ) -> None:
        started = time.perf_counter()
        try:
            if posted is not None and shadow.processor is not None:
                arrays = await asyncio.to_thread(shadow.processor.prepare, *posted)
                started = time.perf_counter()
            shadow.signature.check_arrays(arrays)
            copied = await shadow.infer(arrays)
        except RequestFailure as failure:
            if failure.http_status != 429:  # a queue that is full says nothing of the version
                self.observations.add(shadow.name, shadow.version, time.perf_counter() - started, True, shadow=True)
            return
        self.observations.add(shadow.name, shadow.version, time.perf_counter() - started, False, shadow=True)
        self.observations.compare(loaded.name, loaded.version, shadow.version, outputs, copied)
