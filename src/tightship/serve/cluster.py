"""The same packages on a Ray cluster: each replica is one worker as it is elsewhere, without a state of its own.

Ray Serve spreads replicas and requests over machines and restarts what dies. A new deployment takes the place of the
old one replica by replica: rollouts, access and metrics are Ray's there.
"""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tightship.core import extras
from tightship.errors import ServeError, UsageError
from tightship.package.opening import is_package
from tightship.serve.access import is_loopback
from tightship.serve.packages import Packages, Stored
from tightship.serve.settings import ServeSettings

__all__ = ["APPLICATION", "ClusterRunning", "check", "serve"]

APPLICATION = "tightship"
"""What it is called in Ray's dashboard; a second deployment takes the first one's place."""

PURPOSE = "serving on a Ray cluster (tightship serve --cluster)"


@dataclass(frozen=True)
class ClusterRunning:
    """An application that answers: where, the models, and how many nodes the cluster has."""

    url: str
    models: tuple[str, ...]
    replicas: int
    nodes: int


@dataclass(frozen=True)
class _Sent:
    """A package on its way to the replicas: its name, version and digest, and where Ray keeps its bytes."""

    name: str
    version: str
    digest: str
    data: Any


def serve(settings: ServeSettings, on_running: Callable[[ClusterRunning], None], address: str = "") -> None:
    """Serve packages on the cluster at `address`, or that of this machine, or a new one, until SIGTERM or SIGINT.

    `settings.workers` is the number of replicas, over the whole cluster. Raises `MissingExtra`, `UsageError`,
    `ServeError` where Ray cannot bring the replicas up, and what opening packages raises.
    """
    ray: Any = extras.require("ray", PURPOSE)
    ray_serve: Any = extras.require("ray.serve", PURPOSE)
    check(settings)
    ended = threading.Event()
    # Signals after the connection: Ray has handlers of its own.
    with _connected(ray, address), _signals(ended), tempfile.TemporaryDirectory() as folder:
        stored = [Packages(Path(folder), settings.keys).accept(model) for model in settings.models]
        sent = [_Sent(one.name, one.version, one.digest, ray.put(one.path.read_bytes())) for one in stored]
        application = _application(ray_serve, settings, sent)
        try:
            options = {"host": settings.host, "port": settings.http_port}
            ray_serve.start(proxy_location="EveryNode", http_options=options)
            ray_serve.run(application, name=APPLICATION, route_prefix="/")
        except (RuntimeError, ray.exceptions.RayError) as error:
            raise ServeError(f"Ray could not bring up {len(sent)} models: {error}; its logs say why") from error
        on_running(ClusterRunning(settings.url(), _names(stored), settings.workers, len(ray.nodes())))
        ended.wait()
        ray_serve.delete(APPLICATION)


def check(settings: ServeSettings) -> None:
    """Raise `UsageError` or `ServeError` where a cluster cannot serve what the settings say."""
    if not settings.models:
        raise UsageError("name the packages that the cluster is to serve; it has no state that knows them")
    for model in settings.models:
        if not is_package(model):
            raise UsageError(
                f"{model} is not a package, which is what is sent to a cluster; pack it: tightship pack {model}"
            )
    if settings.tls is not None:
        raise UsageError("on a cluster TLS is the load balancer's; leave out --tls-cert")
    if not is_loopback(settings.host) and not settings.open_to_infer:
        raise ServeError(
            f"{settings.host} is reachable from other machines, and there are no API keys on a cluster: put what asks "
            "for them before it and say --open, or listen on 127.0.0.1"
        )


def _application(ray_serve: Any, settings: ServeSettings, sent: Sequence[_Sent]) -> Any:
    def build() -> Any:
        return _replica(settings, sent)

    ingress = ray_serve.ingress(build)()
    deployment = ray_serve.deployment(ingress).options(
        name="models",
        num_replicas=settings.workers,
        max_ongoing_requests=settings.limits.max_queue,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=settings.limits.drain_s,
    )
    return deployment.bind()


def _replica(settings: ServeSettings, sent: Sequence[_Sent]) -> Any:
    """In a replica: take in the packages, load and warm them, and return the application that answers."""
    from tightship.serve.application import Application
    from tightship.serve.catalogue import Catalogue
    from tightship.serve.endpoints import endpoints
    from tightship.serve.hosts import hosts_of
    from tightship.serve.loaded import Opener
    from tightship.serve.metrics import Metrics
    from tightship.serve.routing import Routes
    from tightship.serve.service import Service

    ray: Any = extras.require("ray", PURPOSE)
    metrics = Metrics()
    catalogue = Catalogue(Opener(settings.limits, settings.keys, settings.engine, settings.threads), metrics)
    with tempfile.TemporaryDirectory(prefix="tightship-replica-") as folder:
        packages = Packages(Path(folder), settings.keys)
        for one in sent:
            stored = packages.receive([ray.get(one.data)], one.name)
            if stored.digest != one.digest:
                raise ServeError(f"{one.name} arrived with another digest than it was sent with")
            catalogue.load(one.name, one.version, stored.path, one.digest)
            catalogue.route(one.name, Routes(one.version))
    application = Application(Service(settings, catalogue, metrics, hosts=hosts_of(settings)), endpoints)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await application(scope, receive, send)

    return answer


async def _live(receive: Any, send: Any) -> None:
    """Answer ASGI's lifespan events, which Ray insists on: all is ready, and nothing is left to end."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


def _names(stored: Sequence[Stored]) -> tuple[str, ...]:
    return tuple(one.name for one in stored)


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    try:
        ray.init(address=address or None, log_to_driver=False, include_dashboard=False if not address else None)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ServeError(
            f"no Ray cluster answers at {address or 'this machine'}: {error}; start one: ray start --head"
        ) from error
    try:
        yield
    finally:
        with suppress(RuntimeError):
            ray.shutdown()


@contextmanager
def _signals(ended: threading.Event) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
