"""API keys where they rest: a table of the server's database that holds hashes, never keys.

A key is `ts_<id>_<secret>`: 48 random bits to call it by, 256 to prove it. With so many bits SHA-256 alone is enough:
there is nothing to guess. Revoked keys stay in the table, so that the journal's names keep a meaning.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tightship.errors import UsageError, nearest

if TYPE_CHECKING:
    import sqlite3

    from tightship.serve.database import Database

__all__ = ["ADMIN", "INFER", "SCOPES", "ApiKeys", "KeyRecord"]

INFER = "infer"
ADMIN = "admin"
SCOPES = (INFER, ADMIN)
ADMIN_KEY_FILE = "admin.key"

TABLE = """
CREATE TABLE IF NOT EXISTS api_keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    rate_per_s REAL NOT NULL,
    burst REAL NOT NULL,
    created REAL NOT NULL,
    revoked REAL NOT NULL
) STRICT
"""
COLUMNS = "id, digest, name, scopes, rate_per_s, burst, created, revoked"


@dataclass(frozen=True)
class KeyRecord:
    """What is known of a key. `rate_per_s` 0 means no limit; times are seconds since the epoch, 0 for not `revoked`."""

    id: str
    digest: bytes
    name: str
    scopes: tuple[str, ...]
    rate_per_s: float
    burst: float
    created: float
    revoked: float

    @property
    def allows(self) -> frozenset[str]:
        """What the key may be used for: who administers may also try what is served."""
        return frozenset(SCOPES if ADMIN in self.scopes else self.scopes)


class ApiKeys:
    """The table of keys in a server's database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.transaction() as connection:
            connection.execute(TABLE)

    def add(self, name: str, scopes: tuple[str, ...] = (INFER,), rate_per_s: float = 0.0, burst: float = 0.0) -> str:
        """Make a key and return it; it is told this once. `burst` requests may come at once, by default a second's.

        Raises `UsageError` for a scope that is none, a negative rate, or a name that a valid key has.
        """
        _check(name, scopes, rate_per_s, burst)
        key = f"ts_{secrets.token_hex(6)}_{secrets.token_hex(32)}"
        self._insert(_record(key, name, scopes, rate_per_s, burst or max(1.0, rate_per_s)))
        return key

    def list(self) -> list[KeyRecord]:
        """Return all keys, the oldest first, the revoked too."""
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT {COLUMNS} FROM api_keys ORDER BY created, id").fetchall()
        return [KeyRecord(row[0], bytes(row[1]), row[2], tuple(row[3].split()), *row[4:]) for row in rows]

    def revoke(self, which: str) -> KeyRecord:
        """End a key, called by its id or its name. Raises `UsageError` where no valid key is called so."""
        with self._database.transaction() as connection:
            row = connection.execute(
                "UPDATE api_keys SET revoked = ? WHERE revoked = 0 AND (id = ? OR name = ?) RETURNING id",
                (time.time(), which, which),
            ).fetchone()
        if row is None:
            known = [word for record in self.list() if not record.revoked for word in (record.name, record.id)]
            raise UsageError(f"no valid API key has the id or the name {which!r}{nearest(which, known)}")
        return next(record for record in self.list() if record.id == row[0])

    def ensure_admin(self, state: Path) -> Path | None:
        """At a server's first start, make the administrator's key; return STATE/admin.key where it was written now.

        The file comes before the row: a start that is killed between the two is completed by the next one.
        """
        path = state / ADMIN_KEY_FILE
        if any(ADMIN in record.scopes for record in self.list()):
            return None
        if not path.exists():
            _write_secret(path, f"ts_{secrets.token_hex(6)}_{secrets.token_hex(32)}")
        key = path.read_text(encoding="ascii").strip()
        with suppress(UsageError):  # another process was quicker
            self._insert(_record(key, "administrator", (ADMIN,), 0.0, 0.0))
        return path

    def _insert(self, record: KeyRecord) -> None:
        with self._database.transaction() as connection:
            if _taken(connection, record):
                raise UsageError(
                    f"a valid API key is called {record.name!r} already; revoke it, or choose another name"
                )
            values = (record.id, record.digest, record.name, " ".join(record.scopes))
            numbers = (record.rate_per_s, record.burst, record.created, record.revoked)
            connection.execute(f"INSERT INTO api_keys ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", (*values, *numbers))


def _record(key: str, name: str, scopes: tuple[str, ...], rate_per_s: float, burst: float) -> KeyRecord:
    digest = sha256(key.encode("ascii")).digest()
    return KeyRecord(key.split("_")[1], digest, name, scopes, rate_per_s, burst, time.time(), 0.0)


def _check(name: str, scopes: tuple[str, ...], rate_per_s: float, burst: float) -> None:
    for scope in scopes:
        if scope not in SCOPES:
            raise UsageError(f"{scope!r} is no scope of an API key{nearest(scope, SCOPES)}; there are infer and admin")
    if not scopes or not name.strip() or not name.isprintable():
        raise UsageError("an API key needs a printable name, and at least one of the scopes infer and admin")
    if not (0 <= rate_per_s < float("inf") and 0 <= burst < float("inf")):
        raise UsageError(f"a rate limit is requests per second from 0 up, not {rate_per_s:g} with a burst of {burst:g}")


def _taken(connection: sqlite3.Connection, record: KeyRecord) -> bool:
    query = "SELECT 1 FROM api_keys WHERE digest = ? OR (revoked = 0 AND name = ?)"
    return connection.execute(query, (record.digest, record.name)).fetchone() is not None


def _write_secret(path: Path, key: str) -> None:
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
