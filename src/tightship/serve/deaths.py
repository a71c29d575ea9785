"""Workers that died, and what of it: an engine that crashes takes its process along, and says nothing.

What is new is loaded by another process first (`trial`). What crashes all the same is found so: a worker writes down
what it is about to load, and dead workers are found by those that live. One that died while loading is held against
that version, one that died at work against the candidates that it had. A version whose loading killed too often rests,
each time longer, and everything else is served meanwhile.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence

from tightship.errors import ServeError
from tightship.serve.state import Change

__all__ = ["MAX_DEATHS", "Crashing", "begin_loading", "bury", "end_loading", "told"]

MAX_DEATHS = 2
"""So many dead workers end a rollout, or let a version rest."""

FIRST_REST_S = 3.0
REST_S = 60.0
MAX_REST_S = 3600.0

SERVER = "server"
Version = tuple[str, str]


class Crashing(ServeError):
    """A version is not loaded, since that has killed workers; `until` is when it may be tried again (epoch seconds)."""

    def __init__(self, message: str, until: float) -> None:
        super().__init__(message)
        self.until = until


def told(version: str, deaths: int, loading: int) -> str:
    """Say what `deaths` of workers were, `loading` of which happened while a version was loaded."""
    n = f"{deaths} worker process{'es' * (deaths != 1)} died"
    if loading == deaths:
        return f"{n} while version {version} was loaded and warmed up"
    if not loading:
        return f"{n} while version {version} was in use"
    return f"{n}: {loading} while version {version} was loaded and warmed up, {deaths - loading} while it was in use"


def bury(connection: sqlite3.Connection, dead: Sequence[int], at_once: bool = False) -> None:
    """Remove these workers, and count their deaths where they belong, inside a transaction.

    `at_once`: they died together, of one cause, as when a machine is switched off; that is one death.
    """
    loading: Counter[Version] = Counter()
    in_use: Counter[Version] = Counter()
    for worker in dead:
        tried = _tried(connection, worker)
        if tried is not None:
            loading[tried] += 1
        else:
            in_use.update(_candidates(connection, worker))
        connection.execute("DELETE FROM workers WHERE id = ?", (worker,))
    for version, n in loading.items():
        _blame(connection, version, 1 if at_once else n, was_loading=True)
    for version, n in in_use.items():
        _blame(connection, version, 1 if at_once else n, was_loading=False)


def begin_loading(connection: sqlite3.Connection, worker: int, version: Version, in_turn: bool) -> bool:
    """Write down that a worker is about to load a version; return False where it must wait, inside a transaction.

    `in_turn`: one worker at a time tries what none has loaded yet, so that the others go on answering if it crashes.
    Raises `Crashing` where the version rests.
    """
    query = "SELECT deaths, died_at FROM versions WHERE model = ? AND version = ?"
    deaths, died_at = connection.execute(query, version).fetchone() or (0, 0.0)
    until = died_at + _rest_s(deaths)
    rests = time.time() < until
    if rests and deaths >= MAX_DEATHS:
        raise Crashing(f"{told(version[1], deaths, deaths)}; it is tried again after {_rest_s(deaths):,.0f} s", until)
    if in_turn and (rests or _tried_by_another(connection, worker, version)):
        return False  # the worker that died is to be back before the next one tries
    connection.execute("UPDATE workers SET trying_model = ?, trying_version = ? WHERE id = ?", (*version, worker))
    return True


def end_loading(connection: sqlite3.Connection, worker: int, version: Version) -> None:
    """Write down that the worker is still there, and has loaded the version or been refused."""
    connection.execute("UPDATE workers SET trying_model = '', trying_version = '' WHERE id = ?", (worker,))
    connection.execute("UPDATE versions SET deaths = 0 WHERE model = ? AND version = ? AND deaths > 0", version)


def _rest_s(deaths: int) -> float:
    if deaths < MAX_DEATHS:
        return FIRST_REST_S * deaths
    return min(MAX_REST_S, REST_S * 2.0 ** min(deaths - MAX_DEATHS, 30))


def _tried(connection: sqlite3.Connection, worker: int) -> Version | None:
    model, version = connection.execute(
        "SELECT trying_model, trying_version FROM workers WHERE id = ?", (worker,)
    ).fetchone()
    return (model, version) if model else None


def _candidates(connection: sqlite3.Connection, worker: int) -> list[Version]:
    """The candidates of rollouts that a worker had loaded."""
    return connection.execute(
        "SELECT rollouts.model, new FROM rollouts JOIN loaded ON loaded.model = rollouts.model AND version = new "
        "WHERE ended_at IS NULL AND problem = '' AND worker = ?",
        (worker,),
    ).fetchall()


def _tried_by_another(connection: sqlite3.Connection, worker: int, version: Version) -> bool:
    query = "SELECT 1 FROM loaded WHERE model = ? AND version = ? AND problem = ''"
    loaded = connection.execute(query, version).fetchone()
    trying = connection.execute(
        "SELECT 1 FROM workers WHERE trying_model = ? AND trying_version = ? AND id != ?", (*version, worker)
    ).fetchone()
    return loaded is None and trying is not None


def _blame(connection: sqlite3.Connection, version: Version, n: int, was_loading: bool) -> None:
    if was_loading:
        connection.execute(
            "UPDATE versions SET deaths = deaths + ?, died_at = ? WHERE model = ? AND version = ?",
            (n, time.time(), *version),
        )
    connection.execute(
        "UPDATE rollouts SET deaths = deaths + ?, deaths_loading = deaths_loading + ? "
        "WHERE ended_at IS NULL AND model = ? AND new = ?",
        (n, n * was_loading, *version),
    )
    Change(connection, SERVER, 0).note("worker died", *version, told(version[1], n, n * was_loading))
