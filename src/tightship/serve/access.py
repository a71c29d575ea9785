"""Who may ask for what: API keys with scopes and rate limits, checked in about a microsecond per request.

A presented key is hashed and looked up by its hash: neither this table nor the time it takes tells anything of a key.
The table is a copy of `api_keys` in memory; `Access.refresh` takes over what changed there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import sha256

from tightship.errors import ServeError
from tightship.serve.api_keys import ADMIN, INFER, ApiKeys, KeyRecord
from tightship.serve.failures import Forbidden, Overloaded, Unauthorised
from tightship.serve.tls import TlsFiles

__all__ = ["ADMIN", "ANYBODY", "INFER", "Access", "Caller", "check_exposure", "is_loopback"]

BEARER = b"bearer "
PURPOSES = {INFER: "inference", ADMIN: "administration"}
HOW = "send it as `Authorization: Bearer ts_...`; `tightship access add` makes one"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is: the key's id and name, and what it may do. Empty id: nobody was asked who they are."""

    id: str
    name: str
    scopes: frozenset[str]


ANYBODY = Caller("", "anybody", frozenset({INFER}))


class _Entry:
    """A key as one worker sees it, with this worker's part of its token bucket."""

    __slots__ = ("burst", "caller", "rate", "stamp", "tokens")

    def __init__(self, record: KeyRecord, workers: int) -> None:
        self.caller = Caller(record.id, record.name, record.allows)
        self.rate = record.rate_per_s / workers
        self.burst = max(1.0, record.burst / workers)
        self.tokens = self.burst
        self.stamp = time.monotonic()

    def take(self) -> None:
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.stamp) * self.rate)
        self.stamp = now
        if self.tokens < 1.0:
            wait_s = (1.0 - self.tokens) / self.rate
            raise Overloaded(f"key {self.caller.id} ({self.caller.name}) is over its rate limit", retry_after_s=wait_s)
        self.tokens -= 1.0


class Access:
    """The keys as one of `workers` workers knows them.

    Requests for inference need no key while `open_to_infer` says so, or while nobody ever made a key for inference.
    Requests for administration always need one.
    """

    def __init__(self, keys: ApiKeys, workers: int = 1, open_to_infer: bool = False) -> None:
        self._keys = keys
        self._workers = workers
        self._open_always = open_to_infer
        self._open = open_to_infer
        self._entries: dict[bytes, _Entry] = {}
        self._records: dict[bytes, KeyRecord] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take over keys that were added, changed or revoked; token buckets of the others stay as full as they are."""
        records = {record.digest: record for record in self._keys.list()}
        live = {digest: record for digest, record in records.items() if not record.revoked}
        self._entries = {
            digest: self._entries[digest]
            if digest in self._entries and self._records.get(digest) == record
            else _Entry(record, self._workers)
            for digest, record in live.items()
        }
        self._records = live
        # A revoked key counts: whoever revokes the last one does not mean to open the server to everybody.
        self._open = self._open_always or not any(INFER in record.scopes for record in records.values())

    @property
    def open_to_infer(self) -> bool:
        """Whether inference needs no key at this moment."""
        return self._open

    def check(self, credential: bytes | None, scope: str) -> Caller:
        """Return who asks, from the value of their `authorization` or `x-api-key` header.

        Raises `Unauthorised` (no key, or none that is known), `Forbidden` (not for this) or `Overloaded` (rate limit).
        """
        if credential is None:
            if self._open and scope == INFER:
                return ANYBODY
            raise Unauthorised(f"{PURPOSES[scope]} needs an API key; {HOW}")
        key = credential[7:] if credential[:7].lower() == BEARER else credential
        entry = self._entries.get(sha256(key).digest())
        if entry is None:
            raise Unauthorised(f"this API key is not known here, or was revoked; {HOW}")
        if scope not in entry.caller.scopes:
            raise Forbidden(
                f"{PURPOSES[scope]} needs a key with the scope {scope}; {entry.caller.id} ({entry.caller.name}) has "
                f"{' and '.join(sorted(entry.caller.scopes))}"
            )
        if entry.rate:
            entry.take()
        return entry.caller


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, keys: ApiKeys, tls: TlsFiles | None, open_to_infer: bool) -> None:
    """Raise `ServeError` where a server would let strangers in whom nobody asks who they are."""
    if is_loopback(host) or open_to_infer or (tls is not None and tls.mutual):
        return
    if not any(INFER in record.scopes for record in keys.list()):
        raise ServeError(
            f"{host} is reachable from other machines, and anybody could use the server: make an API key first "
            "(`tightship access add NAME --scope infer`), or ask for client certificates (--tls-clients), or say --open"
        )
