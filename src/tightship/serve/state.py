"""What should be served: models, their versions and routes, and a journal of who changed what and why.

Every change is one transaction that makes `revision` grow; workers follow (`reconcile`), and `workers` tells who has.
"""

from __future__ import annotations

import itertools
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tightship.errors import nearest
from tightship.serve.database import Database
from tightship.serve.failures import NoSuchModel
from tightship.serve.packages import Stored
from tightship.serve.routing import Routes

__all__ = ["ADMIN", "START", "Change", "Desired", "JournalEntry", "State", "WantedModel", "WantedVersion", "Watch"]

START = "start"
ADMIN = "admin"
"""Who asked for a model first: the command line of a server, or an administrator."""


@dataclass(frozen=True)
class WantedVersion:
    """A version of a model: the file it is loaded from, the SHA-256 of that file, and where it came from.

    `wanted_since` is the revision since which it should be loaded, or 0 where it should not; its file is kept all the
    same, so that it can come back.
    """

    version: str
    digest: str
    path: str
    source: str
    wanted_since: int
    added_at: float

    @property
    def wanted(self) -> bool:
        """Whether it should be loaded."""
        return self.wanted_since > 0


@dataclass(frozen=True)
class Watch:
    """A rollout and its step, for which is counted what the versions do; `measure` is a row of `MEASURES`."""

    rollout: int
    step: int
    measure: str


@dataclass(frozen=True)
class WantedModel:
    """A model, its versions by the time they came, and who of them answers.

    `by_worker`: the share of the candidate is one of workers instead of requests. `watch` is there while a rollout
    tries the candidate.
    """

    name: str
    routes: Routes
    versions: tuple[WantedVersion, ...]
    by_worker: bool
    origin: str
    watch: Watch | None

    @property
    def served(self) -> bool:
        """Whether its stable version should be loaded now."""
        stable = self.find(self.routes.stable)
        return stable is not None and stable.wanted

    def find(self, version: str) -> WantedVersion | None:
        """Return the version, loaded or not, or None."""
        return next((known for known in self.versions if known.version == version), None)

    def routes_of(self, rank: int, workers: int) -> Routes:
        """Return the routes of the worker that is number `rank` of `workers`."""
        if not self.by_worker:
            return self.routes
        n_new = math.ceil(self.routes.share * workers - 1e-9)  # a step that no worker takes would show nothing
        return replace(self.routes, share=1.0 if rank < n_new else 0.0)


@dataclass(frozen=True)
class Desired:
    """All that should be served at one revision, by name of model; also models that are unloaded for now."""

    revision: int
    models: Mapping[str, WantedModel]

    def find(self, model: str) -> WantedModel:
        """Return a model. Raises `NoSuchModel` naming those that are there."""
        if model not in self.models:
            known = ", ".join(sorted(self.models)) or "none"
            raise NoSuchModel(f"there is no model {model!r}{nearest(model, self.models)}; known here: {known}")
        return self.models[model]


@dataclass(frozen=True)
class JournalEntry:
    """Who did what, when (seconds since the epoch) and why."""

    id: int
    at: float
    who: str
    what: str
    model: str
    version: str
    why: str


class Change:
    """One change of what is wanted, made inside a transaction by `who`."""

    def __init__(self, connection: sqlite3.Connection, who: str, revision: int) -> None:
        self.connection = connection
        self.who = who
        self.revision = revision

    def desired(self) -> Desired:
        """Return what is wanted at this moment, changes of this transaction included."""
        return _desired(self.connection)

    def add_version(self, model: str, version: str, digest: str, path: str, source: str) -> None:
        """Add a version that should be loaded, or want a known one again."""
        self.connection.execute(
            "INSERT INTO versions (model, version, digest, path, source, wanted, added_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET wanted = excluded.wanted, path = excluded.path",
            (model, version, digest, path, source, self.revision, time.time()),
        )

    def adopt(self, model: str, stored: Stored) -> str:
        """Want a stored file as a version of a model and return its name: the one these bytes have, or a new one.

        That is the version its manifest tells. Where other bytes have it, the next free number, or the version with the
        start of the digest.
        """
        known = self.desired().models.get(model)
        taken = {} if known is None else {entry.version: entry.digest for entry in known.versions}
        possible = itertools.chain((stored.version,), _others(stored))
        names = (name for name in possible if taken.get(name, stored.digest) == stored.digest)
        version = next((name for name, digest in taken.items() if digest == stored.digest), None) or next(names)
        self.add_version(model, version, stored.digest, str(stored.path), stored.source)
        return version

    def add_model(self, model: str, stable: str, origin: str) -> None:
        """Add a model whose version `stable` answers; of one that is known, let that version answer."""
        self.connection.execute(
            "INSERT INTO models (name, stable, origin) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "stable = excluded.stable, candidate = NULL, share = 0, shadow = 0, by_worker = 0, by_key = 0",
            (model, stable, origin),
        )

    def want(self, model: str, version: str, wanted: bool) -> None:
        """Say whether a version should be loaded."""
        self.connection.execute(
            "UPDATE versions SET wanted = ? WHERE model = ? AND version = ?",
            (self.revision if wanted else 0, model, version),
        )

    def forgive(self, model: str, version: str) -> None:
        """Let a version be loaded again at once, though that has killed workers: somebody asks for it."""
        self.connection.execute("UPDATE versions SET deaths = 0 WHERE model = ? AND version = ?", (model, version))

    def unload(self, model: str) -> None:
        """Want no version of a model; it is still known."""
        self.connection.execute("UPDATE versions SET wanted = 0 WHERE model = ?", (model,))

    def remove_version(self, model: str, version: str) -> None:
        """Forget a version that nothing refers to."""
        self.connection.execute("DELETE FROM versions WHERE model = ? AND version = ?", (model, version))

    def remove_model(self, model: str) -> None:
        """Forget a model and all its versions."""
        self.connection.execute("DELETE FROM models WHERE name = ?", (model,))
        self.connection.execute("DELETE FROM versions WHERE model = ?", (model,))

    def route(self, model: str, routes: Routes, by_worker: bool = False) -> None:
        """Say who answers."""
        self.connection.execute(
            "UPDATE models SET stable = ?, candidate = ?, share = ?, shadow = ?, by_key = ?, by_worker = ? "
            "WHERE name = ?",
            (routes.stable, routes.candidate, routes.share, routes.shadow, int(routes.by_key), int(by_worker), model),
        )

    def note(self, what: str, model: str = "", version: str = "", why: str = "") -> None:
        """Write a line of the journal."""
        self.connection.execute(
            "INSERT INTO journal (at, who, what, model, version, why) VALUES (?, ?, ?, ?, ?, ?)",
            (time.time(), self.who, what, model, version, why),
        )


class State:
    """What should be served, as it lies in a `Database`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def revision(self) -> int:
        """Return the number of the last change."""
        with self.database.reading() as connection:
            return _revision(connection)

    def desired(self) -> Desired:
        """Return all that should be served now."""
        with self.database.reading() as connection:
            return _desired(connection)

    @contextmanager
    def change(self, who: str) -> Iterator[Change]:
        """Give a change to make; it happens whole at the end of the block or not at all, and has the new `revision`."""
        with self.database.transaction() as connection:
            connection.execute("UPDATE server SET revision = revision + 1")
            yield Change(connection, who, _revision(connection))

    def journal(self, model: str = "", limit: int = 100) -> tuple[JournalEntry, ...]:
        """Return the newest entries, of one model or of all, the newest first."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT id, at, who, what, model, version, why FROM journal "
                "WHERE ? IN ('', model) ORDER BY id DESC LIMIT ?",
                (model, limit),
            ).fetchall()
        return tuple(JournalEntry(*row) for row in rows)


def _others(stored: Stored) -> Iterator[str]:
    if stored.version.isdecimal():
        yield from map(str, itertools.count(int(stored.version) + 1))
    yield f"{stored.version}-{stored.digest[:12]}"


def _revision(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT revision FROM server").fetchone()[0])


def _desired(connection: sqlite3.Connection) -> Desired:
    versions: dict[str, list[WantedVersion]] = {}
    for model, version, digest, path, source, wanted, added_at in connection.execute(
        "SELECT model, version, digest, path, source, wanted, added_at FROM versions ORDER BY added_at, version"
    ):
        versions.setdefault(model, []).append(WantedVersion(version, digest, path, source, wanted, added_at))
    models = {}
    for name, stable, candidate, share, shadow, by_worker, by_key, origin, rollout, step, measure in connection.execute(
        "SELECT name, stable, candidate, share, shadow, by_worker, by_key, origin, rollouts.id, step, measure "
        "FROM models LEFT JOIN rollouts ON model = name AND ended_at IS NULL ORDER BY name"
    ):
        salt = "" if rollout is None else str(rollout)
        routes = Routes(stable, candidate, share, shadow, salt, bool(by_key))
        watch = None if candidate is None or rollout is None else Watch(rollout, step, measure)
        models[name] = WantedModel(name, routes, tuple(versions[name]), bool(by_worker), origin, watch)
    return Desired(_revision(connection), models)
