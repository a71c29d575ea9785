"""The process that a person starts: it checks, binds, starts the workers, and starts those anew that die."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
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
from tightship.serve.database import Database
from tightship.serve.logs import LOGGER, configure
from tightship.serve.settings import ServeSettings, database_path
from tightship.serve.snapshots import MetricsFolder
from tightship.serve.worker import Worker, deployment_of

__all__ = ["Running", "serve"]

BACKLOG = 2048
SPARE_FILES = 512
FIRST_START_S = 600.0
LEAST_LIFE_S = 5.0
"""A worker that dies sooner waits before it is started anew, so that a broken one does not burn a core."""


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
                wait([*(child.process.sentinel for child in children), self._woken], timeout=1.0)
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
                word = self._received(child)
                if isinstance(word, TightshipError):
                    raise word
                return word
            if not child.process.is_alive():
                raise ServeError(f"a worker ended with code {child.process.exitcode} before it could serve")
        return None

    @staticmethod
    def _received(child: _Child) -> int | TightshipError | None:
        try:
            word: int | TightshipError | None = child.told.recv()
            return word
        except EOFError:
            return ServeError("a worker ended before it could serve; its log says why")

    def _kept(self, child: _Child) -> _Child:
        if child.process.is_alive() or self._ending:
            return child
        LOGGER.error("worker %s ended with code %s; another is started", child.process.pid, child.process.exitcode)
        lived_s = time.monotonic() - child.since
        if lived_s < LEAST_LIFE_S:
            wait([self._woken], timeout=LEAST_LIFE_S - lived_s)
        child.told.close()
        return child if self._ending else self._start(strict=False)

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
        _end_with_parent()
        Worker(settings, strict).run([listening], tell.send)
    except TightshipError as error:
        with suppress(OSError, ValueError):
            tell.send(error)
        raise SystemExit(error.exit_code) from error


def _end_with_parent() -> None:
    """Have the kernel end this worker where its supervisor is killed: a killed server must free its ports."""
    with suppress(OSError, AttributeError):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() == 1:
            raise SystemExit(0)
