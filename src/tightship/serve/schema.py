"""The tables of a server's state. What is *wanted* stands in `models`, `versions` and `rollouts`; each worker reports
beside it what it has. `server.revision` grows by one with every change of what is wanted."""

from __future__ import annotations

__all__ = ["SCHEMA_VERSION", "TABLES", "UPGRADES"]

SCHEMA_VERSION = 2

TABLES = (
    "CREATE TABLE server (revision INTEGER NOT NULL) STRICT",
    "INSERT INTO server VALUES (0)",
    # `origin`: who asked for it, the command line (start) or an administrator (admin).
    """CREATE TABLE models (
        name TEXT PRIMARY KEY,
        stable TEXT NOT NULL,
        candidate TEXT,
        share REAL NOT NULL DEFAULT 0,
        shadow REAL NOT NULL DEFAULT 0,
        by_worker INTEGER NOT NULL DEFAULT 0,
        by_key INTEGER NOT NULL DEFAULT 0,
        origin TEXT NOT NULL,
        FOREIGN KEY (name, stable) REFERENCES versions (model, version) DEFERRABLE INITIALLY DEFERRED,
        FOREIGN KEY (name, candidate) REFERENCES versions (model, version) DEFERRABLE INITIALLY DEFERRED
    ) STRICT""",
    # `deaths`: workers that died while they loaded it, since that last went well, and when the last of them did.
    """CREATE TABLE versions (
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        digest TEXT NOT NULL,
        path TEXT NOT NULL,
        source TEXT NOT NULL,
        wanted INTEGER NOT NULL,
        added_at REAL NOT NULL,
        deaths INTEGER NOT NULL DEFAULT 0,
        died_at REAL NOT NULL DEFAULT 0,
        PRIMARY KEY (model, version)
    ) STRICT""",
    """CREATE TABLE rollouts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        model TEXT NOT NULL,
        old TEXT NOT NULL,
        new TEXT NOT NULL,
        plan TEXT NOT NULL,
        measure TEXT NOT NULL,
        state TEXT NOT NULL,
        step INTEGER NOT NULL,
        step_at REAL NOT NULL,
        reason TEXT NOT NULL DEFAULT '',
        who TEXT NOT NULL,
        started_at REAL NOT NULL,
        ended_at REAL,
        unload_at REAL,
        deaths INTEGER NOT NULL DEFAULT 0,
        deaths_loading INTEGER NOT NULL DEFAULT 0
    ) STRICT""",
    "CREATE UNIQUE INDEX one_rollout_per_model ON rollouts (model) WHERE ended_at IS NULL",
    # Counts only ever grow, by what a worker has seen since it last wrote; `level` is what `kind` counts by.
    """CREATE TABLE observations (
        rollout INTEGER NOT NULL,
        step INTEGER NOT NULL,
        version TEXT NOT NULL,
        kind TEXT NOT NULL,
        level INTEGER NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (rollout, step, version, kind, level)
    ) STRICT, WITHOUT ROWID""",
    # A worker lives as long as its process: `pid` and the moment it started, since numbers of processes come again.
    # `trying_...`: what it is loading.
    """CREATE TABLE workers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pid INTEGER NOT NULL,
        born REAL NOT NULL,
        applied INTEGER NOT NULL DEFAULT 0,
        trying_model TEXT NOT NULL DEFAULT '',
        trying_version TEXT NOT NULL DEFAULT ''
    ) STRICT""",
    # `problem` is empty for what is ready, else why it could not be loaded.
    """CREATE TABLE loaded (
        worker INTEGER NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        problem TEXT NOT NULL,
        PRIMARY KEY (worker, model, version)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE journal (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        who TEXT NOT NULL,
        what TEXT NOT NULL,
        model TEXT NOT NULL DEFAULT '',
        version TEXT NOT NULL DEFAULT '',
        why TEXT NOT NULL DEFAULT ''
    ) STRICT""",
)

UPGRADES = {
    1: (
        "ALTER TABLE versions ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE versions ADD COLUMN died_at REAL NOT NULL DEFAULT 0",
        "ALTER TABLE rollouts ADD COLUMN deaths_loading INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE workers ADD COLUMN trying_model TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE workers ADD COLUMN trying_version TEXT NOT NULL DEFAULT ''",
    ),
}
"""What makes the next schema of each older one."""
