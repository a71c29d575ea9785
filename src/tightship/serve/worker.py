"""One process that serves: its parts are made, it follows what is wanted, answers, and drains when told to end."""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tightship.core import extras
from tightship.errors import ServeError, TightshipError
from tightship.serve.access import Access
from tightship.serve.api_keys import ApiKeys
from tightship.serve.application import Application, Asgi
from tightship.serve.catalogue import Catalogue
from tightship.serve.database import Database
from tightship.serve.deployment import Deployment
from tightship.serve.hosts import hosts_of
from tightship.serve.loaded import Opener
from tightship.serve.logs import LOGGER, configure
from tightship.serve.memory import MemoryKeeper, map_great_blocks, share_arenas
from tightship.serve.metrics import Metrics
from tightship.serve.packages import Packages
from tightship.serve.reconcile import Reconciler
from tightship.serve.rollout.controller import Rollouts
from tightship.serve.service import Service
from tightship.serve.settings import ServeSettings, database_path
from tightship.serve.snapshots import MetricsFolder
from tightship.serve.state import State
from tightship.serve.workers import Workers

if TYPE_CHECKING:
    from tightship.serve.grpc_service.server import GrpcServer
    from tightship.serve.tracing import Tracing

__all__ = ["Started", "Worker", "deployment_of"]

TICK_S = 0.2
SWEEP_S = 1.0
SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter from another that wants it: an engine's thread, back from a run."""

GC_THRESHOLD = (20_000, 5, 5)
"""Good requests leave no cycles behind, so to look for some after every few of them costs more than it finds.

Clients that vanish leave some, which outlive the first look if they were in use then: hence the few looks further back.
"""

Started = Callable[[int | None], None]
"""Told the gRPC port when requests are answered."""


def deployment_of(settings: ServeSettings, database: Database) -> Deployment:
    """Return the verbs on the state of a server."""
    state, workers = State(database), Workers(database)
    packages = Packages(settings.state / "packages", settings.keys)
    return Deployment(state, workers, packages, Rollouts(state, workers))


class Worker:
    """Serves until SIGTERM or SIGINT. `strict` says that a model which cannot be loaded ends it at once."""

    def __init__(self, settings: ServeSettings, strict: bool) -> None:
        configure(settings.log_level, "json" if settings.log_json else "human")
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        share_arenas()
        self._settings = settings
        self._strict = strict
        self._database = database = Database(database_path(settings.state))
        self._folder = MetricsFolder(settings.state / "metrics")
        self._folder.retire()
        self._memory = MemoryKeeper()
        self._ended = threading.Event()
        self._draining = asyncio.Event()
        opener = Opener(settings.limits, settings.keys, settings.engine, settings.threads_per_worker())
        metrics = Metrics()
        self._catalogue = Catalogue(opener, metrics)
        self.service = Service(
            settings,
            self._catalogue,
            metrics,
            Access(ApiKeys(database), settings.workers, settings.open_to_infer),
            hosts=hosts_of(settings),
            tracing=_tracing(settings),
            deployment=deployment_of(settings, database),
            metrics_folder=self._folder,
        )
        self._reconciler = Reconciler(database, self._catalogue, self.service.observations)
        self._application = Application(self.service, _endpoints)

    def run(self, sockets: Sequence[socket.socket], started: Started) -> None:
        """Load what is wanted, answer on these listening sockets, tell `started`; return when drained.

        Raises `ServeError` where a model cannot be loaded and must be.
        """
        importing = threading.Thread(target=_import_server, daemon=True)
        importing.start()  # while engines load
        try:
            self._check(self._reconciler.settle(candidates=False))
            importing.join()
            uvloop = extras.require("uvloop", "tightship serve") if sys.platform != "win32" else None
            factory = None if uvloop is None else uvloop.new_event_loop
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(self._serve(sockets, started))
        finally:
            self._close()

    def _check(self, problems: Any) -> None:
        for (model, version), why in problems.items():
            LOGGER.error("version %s of %s cannot be served: %s", version, model, why)
        if problems and self._strict:
            (model, version), why = next(iter(problems.items()))
            raise ServeError(f"{model} (version {version}) cannot be served: {why}")

    async def _serve(self, sockets: Sequence[socket.socket], started: Started) -> None:
        loop = asyncio.get_running_loop()
        self._catalogue.loop = loop
        server = _server(self._application, self._settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain, server)
        follower = threading.Thread(target=self._follow, name="follower", daemon=True)
        follower.start()
        serving = loop.create_task(server.serve(sockets=list(sockets)))
        grpc = await self._start_grpc()
        sweeping = loop.create_task(_sweep(server.server_state.connections))
        while not server.started and not serving.done():
            await asyncio.sleep(0.001)
        started(None if grpc is None else grpc.port)
        await asyncio.to_thread(self._application.prepare)
        _tidy()
        stopping = loop.create_task(self._stop_grpc(grpc))
        await serving
        self._draining.set()
        await stopping
        sweeping.cancel()
        self._ended.set()
        await asyncio.to_thread(follower.join)

    async def _start_grpc(self) -> GrpcServer | None:
        if self._settings.grpc_port is None:
            return None
        from tightship.serve.grpc_service.server import GrpcServer
        from tightship.serve.grpc_service.servicer import Servicer

        server = GrpcServer(Servicer(self.service), self._settings)
        await server.start()
        return server

    async def _stop_grpc(self, server: GrpcServer | None) -> None:
        """Have gRPC drain at the same time as HTTP."""
        await self._draining.wait()
        if server is not None:
            await server.stop(self._settings.limits.drain_s)

    def _drain(self, server: Any) -> None:
        """Say that no more is taken, finish what has come, and end."""
        self.service.draining = True
        self._draining.set()
        server.should_exit = True

    def _follow(self) -> None:
        """The thread that follows what is wanted, takes over changed keys, and writes down what was counted."""
        written, seen = 0.0, -1
        while not self._ended.wait(TICK_S):
            try:
                self._reconciler.tick()
                version = self._database.data_version()
                if version != seen and self.service.access is not None:
                    self.service.access.refresh()
                seen = version
                if time.monotonic() - written >= SWEEP_S:
                    written = time.monotonic()
                    self._catalogue.count_queues()
                    self._folder.write(self.service.metrics)
                    self._memory.tend()
            except (TightshipError, OSError) as error:
                LOGGER.error("the server's state cannot be followed: %s", error)

    def _close(self) -> None:
        self._ended.set()
        self._reconciler.close()
        self._folder.write(self.service.metrics)
        self._catalogue.loop = None
        self._catalogue.close()
        if self.service.tracing is not None:
            self.service.tracing.close()
        self._database.close()


def _endpoints(service: Service) -> Asgi:
    from tightship.serve.endpoints import endpoints

    return endpoints(service)


def _tracing(settings: ServeSettings) -> Tracing | None:
    if not settings.tracing:
        return None
    from tightship.serve.tracing import Tracing

    return Tracing(settings.tracing)


def _tidy() -> None:
    """Set what is loaded aside: it is not looked at again for cycles, and great blocks that come later lie apart."""
    map_great_blocks()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


def _import_server() -> None:
    import uvicorn  # noqa: F401

    import tightship.serve.connection  # noqa: F401


async def _sweep(connections: set[Any]) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        now = time.monotonic()
        for connection in list(connections):
            connection.sweep(now)


def _server(application: Application, settings: ServeSettings) -> Any:
    """uvicorn's server, whose signals are ours."""
    uvicorn = extras.require("uvicorn", "tightship serve")
    extras.check("httptools", "tightship serve")

    from tightship.serve.connection import Connection
    from tightship.serve.exchange import Heads

    class Server(uvicorn.Server):  # type: ignore[misc, name-defined]
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    limits = settings.limits
    config = uvicorn.Config(
        application,
        http=functools.partial(Connection, application=application, limits=limits, heads=Heads()),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.drain_s),
        **({} if settings.tls is None else settings.tls.uvicorn_options()),
    )
    return Server(config)
