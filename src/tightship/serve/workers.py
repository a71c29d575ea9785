"""The processes that serve: each registers itself, follows what is wanted, and reports how far it has come.

A worker lives as long as its process does. What a dead one has reported counts for nothing: a kill needs no tidying up.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tightship.errors import StateError
from tightship.serve.database import Database
from tightship.serve.deaths import begin_loading, bury, end_loading

__all__ = ["Report", "Version", "Workers", "problem_of"]

Version = tuple[str, str]
"""Names of a model and of a version of it."""

_SAME_START_S = 5.0  # a process' start is told in ticks since boot; the clock of boot may be set a little meanwhile
_POLL_S = 0.02


@dataclass(frozen=True)
class Report:
    """What a living worker has: the revision it follows, and the versions it could load (empty text) or not (why)."""

    id: int
    pid: int
    applied: int
    loaded: Mapping[Version, str] = field(default_factory=dict)


class Workers:
    """The workers that are registered in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self) -> int:
        """Register this process and return its number as a worker."""
        import psutil

        born = psutil.Process().create_time()
        with self._database.transaction() as connection:
            bury(connection, _dead(connection))
            cursor = connection.execute("INSERT INTO workers (pid, born) VALUES (?, ?)", (os.getpid(), born))
            return int(cursor.lastrowid or 0)

    def clear(self) -> None:
        """Remove workers that a killed server left behind; called before a server starts its own."""
        with self._database.transaction() as connection:
            bury(connection, _dead(connection), at_once=True)

    def bury(self) -> None:
        """Remove workers that died without leaving, and count that where it belongs."""
        with self._database.reading() as connection:
            dead = _dead(connection)
        if dead:
            with self._database.transaction() as connection:
                bury(connection, _dead(connection))

    def begin_loading(self, worker: int, version: Version, in_turn: bool) -> bool:
        """Write down that a worker is about to load a version; see `deaths.begin_loading`."""
        self.bury()
        with self._database.transaction() as connection:
            return begin_loading(connection, worker, version, in_turn)

    def end_loading(self, worker: int, version: Version) -> None:
        """Write down that a worker has loaded a version, or was refused, and lives."""
        with self._database.transaction() as connection:
            end_loading(connection, worker, version)

    def loading(self, pid: int) -> Version | None:
        """Return what the worker of this process is loading, or was when it died."""
        with self._database.reading() as connection:
            found: Version | None = connection.execute(
                "SELECT trying_model, trying_version FROM workers WHERE pid = ? AND trying_model != '' "
                "ORDER BY id DESC",
                (pid,),
            ).fetchone()
        return found

    def leave(self, worker: int) -> None:
        """Take a worker off the list, when it stops."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM workers WHERE id = ?", (worker,))

    def report(self, worker: int, revision: int, loaded: Mapping[Version, str]) -> None:
        """Write down that a worker follows `revision`, and what it has loaded, or could not and why."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE workers SET applied = ? WHERE id = ?", (revision, worker))
            connection.execute("DELETE FROM loaded WHERE worker = ?", (worker,))
            connection.executemany(
                "INSERT INTO loaded SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM workers WHERE id = ?)",
                [(worker, model, version, problem, worker) for (model, version), problem in loaded.items()],
            )

    def living(self) -> tuple[Report, ...]:
        """Return the reports of all workers whose process lives, by number."""
        loaded: dict[int, dict[Version, str]] = {}
        with self._database.reading() as connection:
            rows = connection.execute("SELECT id, pid, born, applied FROM workers ORDER BY id").fetchall()
            for worker, model, version, problem in connection.execute("SELECT * FROM loaded"):
                loaded.setdefault(worker, {})[model, version] = problem
        return tuple(
            Report(number, pid, applied, loaded.get(number, {}))
            for number, pid, born, applied in rows
            if _lives(pid, born)
        )

    def have(self, version: Version) -> bool:
        """Return whether any living worker has loaded a version."""
        return any(report.loaded.get(version) == "" for report in self.living())

    def wait_until_applied(
        self, revision: int, timeout_s: float = 60.0, tried: Version | None = None
    ) -> tuple[Report, ...]:
        """Wait until every living worker follows `revision` or a later one; return their reports.

        Loading goes on beside that: with `tried`, wait also until each has loaded that version, or failed to.

        Raises `StateError` naming those that do not in time. Not for an event loop's thread.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            reports = self.living()
            late = [
                report
                for report in reports
                if report.applied < revision or (tried is not None and tried not in report.loaded)
            ]
            if not late:
                return reports
            if time.monotonic() > deadline:
                names = ", ".join(f"{report.id} (process {report.pid})" for report in late)
                raise StateError(
                    f"worker {names} did not follow within {timeout_s:g} s; what is wanted is written down, and it "
                    "will once it answers: look at its log, or restart it"
                )
            time.sleep(_POLL_S)


def problem_of(reports: Iterable[Report], model: str, version: str) -> str:
    """Return why a worker could not load a version, or an empty text."""
    return next((problem for report in reports if (problem := report.loaded.get((model, version)))), "")


def _dead(connection: sqlite3.Connection) -> list[int]:
    rows = connection.execute("SELECT id, pid, born FROM workers").fetchall()
    return [number for number, pid, born in rows if not _lives(pid, born)]


def _lives(pid: int, born: float) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - born) < _SAME_START_S and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
