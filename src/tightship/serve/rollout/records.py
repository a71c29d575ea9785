"""Rollouts and what was observed of them, as rows of the server's state."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from tightship.serve.observations import Increment
from tightship.serve.rollout.judge import Counts
from tightship.serve.rollout.strategies import ROLLBACK, Plan

__all__ = ["ABORTED", "PREPARING", "PROMOTED", "ROLLED_BACK", "RUNNING", "Records", "Rollout"]

PREPARING, RUNNING, PROMOTED, ROLLED_BACK, ABORTED = "preparing", "running", "promoted", "rolled back", "aborted"


@dataclass(frozen=True)
class Rollout:
    """One rollout as it stands: from version `old` to `new` of a model. Times are seconds since the epoch.

    `deaths` are workers that died while it ran, and had the new version; `deaths_loading` of them while they loaded it.
    """

    id: int
    model: str
    old: str
    new: str
    plan: Plan
    state: str
    step: int
    step_at: float
    reason: str
    who: str
    started_at: float
    ended_at: float | None
    unload_at: float | None
    deaths: int
    deaths_loading: int

    @property
    def ended(self) -> bool:
        """Whether it was promoted, rolled back or aborted."""
        return self.ended_at is not None


_COLUMNS = (
    "id, model, old, new, plan, state, step, step_at, reason, who, started_at, ended_at, unload_at, deaths, "
    "deaths_loading"
)


@dataclass(frozen=True)
class Records:
    """The rows, in a transaction of theirs that reads or changes."""

    connection: sqlite3.Connection

    def begin(self, model: str, old: str, new: str, plan: Plan, who: str) -> int:
        """Write down a new rollout and return its number. `sqlite3.IntegrityError` where one of the model runs."""
        now = time.time()
        cursor = self.connection.execute(
            "INSERT INTO rollouts (model, old, new, plan, measure, state, step, step_at, who, started_at) "
            "VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
            (model, old, new, msgspec.json.encode(plan).decode(), plan.limits.measure, PREPARING, now, who, now),
        )
        return int(cursor.lastrowid or 0)

    def find(self, number: int) -> Rollout | None:
        """Return a rollout, or None."""
        return next(iter(self._select("WHERE id = ?", number)), None)

    def running(self, model: str = "") -> list[Rollout]:
        """Return the rollouts that have not ended, of one model or of all."""
        return self._select("WHERE ended_at IS NULL AND ? IN ('', model) ORDER BY id", model)

    def brought(self, model: str, version: str) -> Rollout | None:
        """Return the rollout that brought a version, if it was one forward, or None."""
        found = self._select("WHERE model = ? AND new = ? AND state = ? ORDER BY id DESC", model, version, PROMOTED)
        return next((rollout for rollout in found if rollout.plan.strategy != ROLLBACK.strategy), None)

    def to_unload(self, now: float) -> list[Rollout]:
        """Return rollouts whose old version was kept long enough."""
        return self._select("WHERE unload_at <= ? ORDER BY id", now)

    def history(self, model: str = "", limit: int = 50) -> list[Rollout]:
        """Return rollouts, of one model or of all, the newest first."""
        return self._select("WHERE ? IN ('', model) ORDER BY id DESC LIMIT ?", model, limit)

    def enter(self, rollout: Rollout, step: int) -> None:
        """Write down that a step begins."""
        self.connection.execute(
            "UPDATE rollouts SET state = ?, step = ?, step_at = ? WHERE id = ?",
            (RUNNING, step, time.time(), rollout.id),
        )

    def end(self, rollout: Rollout, state: str, reason: str, unload_at: float | None = None) -> None:
        """Write down how it ended and why; `unload_at` is until when the old version stays loaded."""
        self.connection.execute(
            "UPDATE rollouts SET state = ?, reason = ?, ended_at = ?, unload_at = ? WHERE id = ?",
            (state, reason, time.time(), unload_at, rollout.id),
        )

    def forget_unload(self, rollout: Rollout) -> bool:
        """Write down that nothing is to be unloaded any more; return whether there was."""
        query = "UPDATE rollouts SET unload_at = NULL WHERE id = ? AND unload_at IS NOT NULL"
        return self.connection.execute(query, (rollout.id,)).rowcount > 0

    def observe(self, increments: Iterable[Increment]) -> None:
        """Add to the counts; what is told of a rollout that has ended is left out."""
        self.connection.executemany(
            "INSERT INTO observations SELECT ?, ?, ?, ?, ?, ? "
            "WHERE EXISTS (SELECT 1 FROM rollouts WHERE id = ? AND ended_at IS NULL) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            [(one.rollout, one.step, one.version, one.kind, one.level, one.count, one.rollout) for one in increments],
        )

    def counts(self, rollout: Rollout) -> Counts:
        """Return what all workers have seen of a rollout."""
        counts: dict[tuple[int, str, str], dict[int, int]] = {}
        for step, version, kind, level, count in self.connection.execute(
            "SELECT step, version, kind, level, count FROM observations WHERE rollout = ?", (rollout.id,)
        ):
            counts.setdefault((step, version, kind), {})[level] = count
        return counts

    def lineage(self, model: str, version: str, n: int) -> list[str]:
        """Return the versions that `rollback` would bring one after the other, at most `n`."""
        found: list[str] = []
        while len(found) < n and (last := self.brought(model, version)) is not None and last.old not in found:
            version = last.old
            found.append(version)
        return found

    def prune(self, n_rollouts: int) -> None:
        """Forget what was observed of all but the newest rollouts; the rollouts themselves stay."""
        self.connection.execute(
            "DELETE FROM observations WHERE rollout <= (SELECT MAX(id) FROM rollouts) - ?", (n_rollouts,)
        )

    def _select(self, where: str, *values: str | float) -> list[Rollout]:
        rows = self.connection.execute(f"SELECT {_COLUMNS} FROM rollouts {where}", values).fetchall()
        return [_rollout(*row) for row in rows]


def _rollout(number: int, model: str, old: str, new: str, plan: str, *others: Any) -> Rollout:
    return Rollout(number, model, old, new, msgspec.json.decode(plan, type=Plan), *others)
