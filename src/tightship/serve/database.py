"""The one SQLite file in which a server's state lies: transactions that happen whole or not at all, also at a kill -9.

Every process has its own `Database`; none may be taken along through a fork.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tightship.errors import StateError
from tightship.serve.schema import SCHEMA_VERSION, TABLES, UPGRADES

__all__ = ["Database"]

BUSY_TIMEOUT_S = 20.0


class Database:
    """Connections to the file at `path`, which is made where there is none. All methods may be called by any thread.

    Raises `StateError` where the file cannot be used, is not one of ours or was written by a newer tightship.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = _connect(path)
            self._watcher = _connect(path)  # it writes nothing, so that commits of this process change its version too
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise StateError(f"{path} cannot be used as a server's state: {error}; name another folder") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a connection inside BEGIN IMMEDIATE: committed at the end, undone if an exception leaves it."""
        with self._block("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose reads all see the same moment."""
        with self._block("BEGIN") as connection:
            yield connection

    def data_version(self) -> int:
        """A number that changes whenever anybody has committed something; asking costs a few microseconds."""
        with self._lock:
            return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the connections; may be called twice."""
        with self._lock:
            self._watcher.close()
            self._connection.close()

    @contextmanager
    def _block(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute(begin)
                try:
                    yield self._connection
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise StateError(f"{self.path}: {error}; nothing was changed") from error

    def _prepare(self) -> None:
        with self.transaction() as connection:
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found == 0:
                _change(connection, TABLES, SCHEMA_VERSION)
            while found in UPGRADES:
                _change(connection, UPGRADES[found], found + 1)
                found += 1
        if found not in (0, SCHEMA_VERSION):
            self.close()
            raise StateError(
                f"{self.path} has the schema {found}, this tightship reads {SCHEMA_VERSION}; "
                "upgrade it, or name a new folder"
            )


def _change(connection: sqlite3.Connection, statements: Iterable[str], version: int) -> None:
    for statement in statements:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {version}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection
