"""Asking a running server for rollouts, over HTTP with an administrator's key."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from tightship.errors import RolloutError, UsageError
from tightship.serve.rollout.status import Order, Reason, Status
from tightship.serve.state import JournalEntry

__all__ = ["Server"]

MAX_ANSWER_BYTES = 64 << 20

Read = TypeVar("Read")


class _List(msgspec.Struct):
    rollouts: tuple[Status, ...]


class _Journal(msgspec.Struct):
    journal: tuple[JournalEntry, ...]


class _Error(msgspec.Struct):
    error: str


@dataclass(frozen=True)
class Server:
    """A server at `url` (http or https), asked with `key`. `ca` is a PEM file of authorities to trust for https.

    All methods raise `RolloutError`, with the server's words where it refuses.
    """

    url: str
    key: str
    ca: Path | None = None
    timeout_s: float = 300.0

    def start(self, order: Order, package: Path | None = None) -> Status:
        """Start a rollout of what lies at `order.path` on the server's machine, or of `package`, which is sent."""
        if package is None:
            return self._ask("POST", "/admin/rollouts", Status, msgspec.json.encode(order))
        query = urlencode({"order": msgspec.json.encode(order).decode()})
        with package.open("rb") as file:
            return self._ask("POST", f"/admin/rollouts?{query}", Status, file, package.stat().st_size)

    def promote(self, model: str, why: str = "") -> Status:
        """End the model's rollout with the new version."""
        return self._end(model, "promote", why)

    def abort(self, model: str, why: str = "") -> Status:
        """End the model's rollout with the old version."""
        return self._end(model, "abort", why)

    def rollback(self, model: str, why: str = "") -> Status:
        """Go back to the version before the one that answers, or before the rollout that runs."""
        return self._end(model, "rollback", why)

    def find(self, number: int) -> Status:
        """Return one rollout."""
        return self._ask("GET", f"/admin/rollouts/{number}", Status)

    def list(self, model: str = "", running: bool = False, limit: int = 50) -> tuple[Status, ...]:
        """Return rollouts, of one model or of all, the newest first."""
        query = urlencode({"model": model, "limit": limit, "running": "true" if running else "false"})
        return self._ask("GET", f"/admin/rollouts?{query}", _List).rollouts

    def journal(self, model: str = "", limit: int = 50) -> tuple[JournalEntry, ...]:
        """Return who did what and why, the newest first."""
        return self._ask("GET", f"/admin/journal?{urlencode({'model': model, 'limit': limit})}", _Journal).journal

    def wait(self, status: Status, every_s: float = 0.5) -> Status:
        """Wait until a rollout has ended."""
        while not status.rollout.ended:
            time.sleep(every_s)
            status = self.find(status.rollout.id)
        return status

    def _end(self, model: str, verb: str, why: str) -> Status:
        place = f"/admin/rollouts/{quote(model, safe='')}/{verb}"
        return self._ask("POST", place, Status, msgspec.json.encode(Reason(why)))

    def _ask(
        self, method: str, place: str, kind: type[Read], body: bytes | IO[bytes] | None = None, size: int = 0
    ) -> Read:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        if size:
            headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        status, answer = self._exchange(method, place, body, headers)
        if status >= 400:
            raise RolloutError(f"{self.url} refuses ({status}): {_words(answer)}")
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise RolloutError(
                f"{self.url} answers {place} with something else than a tightship server: {error}"
            ) from error

    def _exchange(self, method: str, place: str, body: Any, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request(method, place, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise RolloutError(f"{self.url} does not answer: {error}; is the server running? (--server URL)") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.url} is no address of a server; expected e.g. http://127.0.0.1:8000")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=self.timeout_s)
        context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=self.timeout_s, context=context)


def _words(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=_Error).error
    except msgspec.DecodeError:
        return answer[:300].decode(errors="replace")
