"""Who may use a server: the verbs behind `tightship access`, on the folder of a server that runs, or does not yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tightship.serve.api_keys import INFER, ApiKeys, KeyRecord
from tightship.serve.database import Database
from tightship.serve.settings import database_path

__all__ = ["KeyRow", "NewKey", "add_key", "list_keys", "revoke_key"]


@dataclass(frozen=True)
class NewKey:
    """A key that was made. `key` is told this once and lies nowhere."""

    id: str
    name: str
    scopes: tuple[str, ...]
    rate_per_s: float
    key: str


@dataclass(frozen=True)
class KeyRow:
    """What is known of a key; the times are ISO 8601 in UTC, `revoked` is empty while it is valid."""

    id: str
    name: str
    scopes: tuple[str, ...]
    rate_per_s: float
    created: str
    revoked: str


def add_key(
    state: Path, name: str, scopes: tuple[str, ...] = (INFER,), rate_per_s: float = 0.0, burst: float = 0.0
) -> NewKey:
    """Make an API key; servers on this state accept it at once. Raises `UsageError` or `StateError`."""
    with _keys(state) as keys:
        key = keys.add(name, scopes, rate_per_s, burst)
    return NewKey(key.split("_")[1], name, scopes, rate_per_s, key)


def list_keys(state: Path) -> tuple[KeyRow, ...]:
    """Return what is known of all keys, the oldest first, those that were revoked too."""
    with _keys(state) as keys:
        return tuple(map(_row, keys.list()))


def revoke_key(state: Path, which: str) -> KeyRow:
    """End a key, called by its id or name; servers refuse it at once. Raises `UsageError` where there is none."""
    with _keys(state) as keys:
        return _row(keys.revoke(which))


@contextmanager
def _keys(state: Path) -> Iterator[ApiKeys]:
    database = Database(database_path(state))
    try:
        yield ApiKeys(database)
    finally:
        database.close()


def _row(record: KeyRecord) -> KeyRow:
    ended = _moment(record.revoked) if record.revoked else ""
    return KeyRow(record.id, record.name, record.scopes, record.rate_per_s, _moment(record.created), ended)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
