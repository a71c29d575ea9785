"""The models of one worker: by name their loaded versions and the routes between them.

Any thread may change it; the event loop's thread reads it, per request, without a lock: what it reads is replaced
whole, never changed in place. Sessions are closed on the loop, after the requests that they still answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import random
from types import MappingProxyType

from tightship.errors import nearest
from tightship.serve.access import ANYBODY, Caller
from tightship.serve.failures import NoSuchModel, NotReady
from tightship.serve.loaded import LoadedModel, Opener
from tightship.serve.metrics import Metrics
from tightship.serve.routing import Routes

__all__ = ["Catalogue", "Served"]


@dataclass(frozen=True)
class Served:
    """A model: its versions that are loaded, and who of them answers. Without routes none does, but those asked for."""

    name: str
    versions: Mapping[str, LoadedModel] = field(default_factory=lambda: MappingProxyType({}))
    routes: Routes | None = None
    only: LoadedModel | None = field(init=False)

    def __post_init__(self) -> None:
        """Find the version that answers all who ask for none: while there is no rollout, the stable one."""
        routes = self.routes
        plain = routes is not None and routes.candidate is None
        object.__setattr__(self, "only", self.versions.get(routes.stable) if routes is not None and plain else None)

    @property
    def ready(self) -> bool:
        """Whether a request that names no version is answered."""
        return self.routes is not None and self.routes.stable in self.versions

    def choose(
        self, asked: str | None, sticky_key: bytes | None, caller: Caller = ANYBODY
    ) -> tuple[LoadedModel, LoadedModel | None]:
        """Return the version that answers, and the one that gets the same request unseen, if any.

        Callers stay with their version by the id of their key where the rollout says so, however they showed the key.
        Raises `NoSuchModel` for a version that is not loaded, `NotReady` where none answers yet.
        """
        if asked is None and self.routes is None:
            raise NotReady(f"no version of {self.name} answers yet; ask again soon")
        if self.routes is None:
            return self.version(asked or ""), None
        if sticky_key is None and self.routes.by_key and caller.id:
            sticky_key = caller.id.encode()
        choice = self.routes.choose(asked, sticky_key, random())
        shadow = None if choice.shadow is None else self.versions.get(choice.shadow)
        return self.version(choice.version), shadow

    def version(self, version: str) -> LoadedModel:
        """Return a loaded version. Raises `NoSuchModel` naming those that are."""
        found = self.versions.get(version)
        if found is None:
            if self.routes is not None and version == self.routes.stable:
                raise NotReady(f"version {version} of {self.name} is not loaded yet; ask again soon")
            known = ", ".join(self.versions) or "none"
            raise NoSuchModel(
                f"{self.name} has no version {version[:80]!r}{nearest(version[:80], self.versions)}; loaded: {known}"
            )
        return found


class Catalogue:
    """The models of one worker. `loop` is where requests are answered; None while there is none yet."""

    def __init__(self, opener: Opener, metrics: Metrics | None = None) -> None:
        self.models: Mapping[str, Served] = MappingProxyType({})
        self.loop: asyncio.AbstractEventLoop | None = None
        self.changes = 0
        self._opener = opener
        self._metrics = metrics
        self._lock = threading.Lock()

    def find(self, name: str, version: str | None = None) -> LoadedModel:
        """Return a version, by default the stable one. Raises `NoSuchModel` or `NotReady`."""
        served = self.model(name)
        if version is None:
            if served.routes is None:
                raise NotReady(f"no version of {name} answers yet; ask again soon")
            version = served.routes.stable
        return served.version(version)

    def model(self, name: str) -> Served:
        """Return a model. Raises `NoSuchModel` naming those that are there."""
        found = self.models.get(name)
        if found is None:
            known = ", ".join(self.models) or "none"
            raise NoSuchModel(f"there is no model {name[:80]!r}{nearest(name[:80], self.models)}; served here: {known}")
        return found

    @property
    def ready(self) -> bool:
        """Whether every model answers."""
        return all(served.ready for served in self.models.values())

    def load(self, name: str, version: str, path: str | Path, digest: str = "") -> LoadedModel:
        """Load and warm a version, and have it answer who asks for it by number; routes decide about the others.

        Blocks; not for the event loop's thread. Raises what opening raises, with nothing changed.
        """
        metrics = self._metrics
        if metrics is None:
            loaded = self._opener.open(name, version, Path(path))
        else:
            counted = metrics
            loaded = self._opener.open(name, version, Path(path), lambda size: counted.batch(name, version, size))
        loaded.digest = digest
        with self._lock:
            served = self.models.get(name) or Served(name)
            replaced = served.versions.get(version)
            self._put(replace(served, versions=MappingProxyType({**served.versions, version: loaded})))
        if replaced is not None:
            self._retire(replaced)
        return loaded

    def try_apart(self, path: str, stop: threading.Event) -> str:
        """Load a version in another process, and nothing more; return how it was killed, or an empty text."""
        from tightship.serve.trial import try_apart

        return try_apart(self._opener, Path(path), stop)

    def route(self, name: str, routes: Routes) -> None:
        """Say which versions of a model answer."""
        with self._lock:
            self._put(replace(self.models.get(name) or Served(name), routes=routes))

    def unload(self, name: str, version: str) -> None:
        """Take a version away; a model without versions is gone. What is not there is no error."""
        with self._lock:
            served = self.models.get(name)
            if served is None:
                return
            rest = {known: loaded for known, loaded in served.versions.items() if known != version}
            gone = served.versions.get(version)
            if rest:
                self._put(replace(served, versions=MappingProxyType(rest)))
            else:
                self._replace({known: other for known, other in self.models.items() if known != name})
        if gone is not None:
            self._retire(gone)

    def versions(self) -> tuple[LoadedModel, ...]:
        """Return every loaded version."""
        return tuple(loaded for served in self.models.values() for loaded in served.versions.values())

    def count_queues(self) -> None:
        """Tell the metrics how long the queues are at this moment."""
        for loaded in self.versions() if self._metrics is not None else ():
            series = self._metrics.of(loaded.name, loaded.version)  # type: ignore[union-attr]
            series.queued, series.running = loaded.queued, loaded.running

    def close(self) -> None:
        """Take every version away."""
        for loaded in self.versions():
            self.unload(loaded.name, loaded.version)

    def _put(self, served: Served) -> None:
        self._replace({**self.models, served.name: served})

    def _replace(self, models: Mapping[str, Served]) -> None:
        self.models = MappingProxyType(dict(models))
        self.changes += 1

    def _retire(self, loaded: LoadedModel) -> None:
        if self.loop is None or self.loop.is_closed():
            loaded.retire()
        else:
            self.loop.call_soon_threadsafe(loaded.retire)
