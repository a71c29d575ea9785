"""The process that a person starts: it checks, binds, starts the workers, and starts those anew that die."""

from __future__ import annotations

import fcntl
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from tightship.errors import ServeError, TightshipError, UsageError
from tightship.package.opening import Keys
from tightship.serve.access import check_exposure
from tightship.serve.api_keys import ApiKeys
from tightship.serve.children import end_with_parent, ended
from tightship.serve.database import Database
from tightship.serve.hosts import hosts_of
from tightship.serve.logs import LOGGER, configure
from tightship.serve.settings import ServeSettings, database_path
from tightship.serve.snapshots import MetricsFolder
from tightship.serve.worker import Worker, deployment_of
from tightship.serve.workers import Workers

__all__ = ["Running", "serve"]

BACKLOG = 2048
SPARE_FILES = 512
FIRST_START_S = 600.0
LEAST_LIFE_S = 10.0
REST_S = 0.5
MAX_REST_S = 60.0
"""A worker that dies sooner again and again is started anew after a rest that doubles, so that it burns no core."""


@dataclass(frozen=True)
class Running:
    """A server that answers: its ports as they are, the models it serves, and the administrator's key if it is new."""

    settings: ServeSettings
    models: tuple[str, ...]
    new_admin_key: Path | None


OnRunning = Callable[[Running], None]


def serve(settings: ServeSettings, on_running: OnRunning) -> None:
    """Serve until SIGTERM or SIGINT; `on_running` is told once that requests are answered.

    Raises `ServeError` where it cannot start, `UsageError`, `StateError`, and what opening models and packages raises.
    """
    configure(settings.log_level, "json" if settings.log_json else "human")
    _allow_connections(settings.limits.max_connections)
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        stack.enter_context(_only_server(settings.state))
        models, new_key = _prepare(settings)
        listening = stack.enter_context(_listening(settings.host, settings.http_port))
        settings = replace(settings, http_port=listening.getsockname()[1])
        if settings.workers > 1 and settings.grpc_port is not None:
            held = stack.enter_context(_holding(settings.host, settings.grpc_port))
            settings = replace(settings, grpc_port=held.getsockname()[1])

        def started(grpc_port: int | None) -> None:
            on_running(Running(replace(settings, grpc_port=grpc_port), models, new_key))

        if settings.workers == 1:
            Worker(settings, strict=True).run([listening], started)
        else:
            _Supervisor(settings, listening).run(started)


def _prepare(settings: ServeSettings) -> tuple[tuple[str, ...], Path | None]:
    """Check what can be checked before there are workers, and write down what is to be served."""
    _check_keys(settings.keys)
    hosts_of(settings)
    if settings.tls is not None:
        settings.tls.check()
    database = Database(database_path(settings.state))
    try:
        keys = ApiKeys(database)
        check_exposure(settings.host, keys, settings.tls, settings.open_to_infer)
        models = deployment_of(settings, database).start(settings.models)
        MetricsFolder(settings.state / "metrics").clear()
        return models, keys.ensure_admin(settings.state)
    finally:
        database.close()


def _allow_connections(count: int) -> None:
    """Ask the system for as many open files as connections may need; what it refuses, clients meet."""
    import resource

    wanted = count + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _check_keys(keys: Keys) -> None:
    """Every worker opens packages, also later ones, and a descriptor can be read once."""
    if any(place is not None and place.startswith("fd:") for place in (keys.key, keys.passphrase)):
        raise UsageError(
            "a server opens packages again and again, and fd: can be read once; name a file, env: or pkcs11:"
        )


@contextmanager
def _only_server(state: Path) -> Iterator[None]:
    """Hold the state: two servers on one would each end what the other has started."""
    with (state / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ServeError(f"another server runs on {state}; stop it, or name another folder: --state DIR") from error
        yield


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise ServeError(f"cannot listen on {host} port {port}: {error}; choose another --http-port") from error


def _holding(host: str, port: int) -> socket.socket:
    """Bind gRPC's port without listening: it stays ours, and the workers share it."""
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
        return held
    except (OSError, OverflowError) as error:
        held.close()
        raise ServeError(f"cannot listen on {host} port {port}: {error}; choose another --grpc-port") from error


@dataclass
class _Child:
    process: SpawnProcess
    told: Connection
    since: float
    quick_deaths: int = 0
    due: float | None = None  # since it has died: when the next one is started


class _Supervisor:
    """Starts workers, each with the one listening socket, and keeps as many alive as there should be."""

    def __init__(self, settings: ServeSettings, listening: socket.socket) -> None:
        self._settings = settings
        self._listening = listening
        self._ending = False
        self._wake, self._woken = socket.socketpair()

    def run(self, started: Callable[[int | None], None]) -> None:
        """Serve until told to end. Raises `ServeError` where a worker cannot start at first."""
        before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        children = [self._start(strict=True) for _ in range(self._settings.workers)]
        try:
            ports = [self._first_word(child) for child in children]
            if not self._ending:
                started(ports[0])
            while not self._ending:
                children = [self._kept(child) for child in children]
                due = min((child.due for child in children if child.due is not None), default=float("inf"))
                alive = [child.process.sentinel for child in children if child.due is None]
                wait([*alive, self._woken], timeout=max(0.0, min(1.0, due - time.monotonic())))
        finally:
            self._stop(children)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: object) -> None:
        self._ending = True
        with suppress(OSError):
            self._wake.send(b".")

    def _start(self, strict: bool) -> _Child:
        context = multiprocessing.get_context("spawn")
        told, tell = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(self._settings, strict, self._listening, tell), name="tightship-worker"
        )
        process.start()
        tell.close()
        return _Child(process, told, time.monotonic())

    def _first_word(self, child: _Child) -> int | None:
        """Wait until a worker answers requests; return its gRPC port."""
        deadline = time.monotonic() + FIRST_START_S
        while not self._ending and time.monotonic() < deadline:
            wait([child.told, child.process.sentinel, self._woken], timeout=1.0)
            if child.told.poll():
                with suppress(EOFError):
                    word: int | TightshipError | None = child.told.recv()
                    if isinstance(word, TightshipError):
                        raise word
                    return word
                child.process.join()
            if not child.process.is_alive():
                raise ServeError(f"a worker {ended(child.process.exitcode)} before it could serve{self._tried(child)}")
        return None

    def _tried(self, child: _Child) -> str:
        """Say what a worker that died was loading."""
        database = Database(database_path(self._settings.state))
        try:
            found = Workers(database).loading(child.process.pid or 0)
        finally:
            database.close()
        return "" if found is None else f", while it loaded version {found[1]} of {found[0]}"

    def _kept(self, child: _Child) -> _Child:
        """Return the worker, or the one that takes its place as soon as that is due."""
        if child.process.is_alive() or self._ending:
            return child
        now = time.monotonic()
        if child.due is None:
            quick = now - child.since < LEAST_LIFE_S
            rest_s = min(MAX_REST_S, REST_S * 2.0 ** min(child.quick_deaths, 10)) if quick else 0.0
            child.quick_deaths = child.quick_deaths + 1 if quick else 0
            child.due = now + rest_s
            pid, how = child.process.pid, ended(child.process.exitcode)
            LOGGER.error("worker %s %s; another is started in %.1f s", pid, how, rest_s)
            child.told.close()
        if now < child.due:
            return child
        started = self._start(strict=False)
        started.quick_deaths = child.quick_deaths
        return started

    def _stop(self, children: Sequence[_Child]) -> None:
        """Let the workers drain; who does not end in time is killed."""
        for child in children:
            if child.process.is_alive():
                child.process.terminate()
        deadline = time.monotonic() + 2 * self._settings.limits.drain_s + 5.0
        for child in children:
            child.process.join(max(0.1, deadline - time.monotonic()))
            if child.process.is_alive():
                LOGGER.error("worker %s did not drain in time and is killed", child.process.pid)
                child.process.kill()
                child.process.join()


def _work(settings: ServeSettings, strict: bool, listening: socket.socket, tell: Connection) -> None:
    """A worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor says when to drain
    try:
        end_with_parent()
        Worker(settings, strict).run([listening], tell.send)
    except TightshipError as error:
        with suppress(OSError, ValueError):
            tell.send(error)
        raise SystemExit(error.exit_code) from error
