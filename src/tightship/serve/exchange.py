"""One HTTP request and its answer: what ASGI calls `scope`, `receive` and `send`.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Iterable
from types import coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from tightship.serve.logs import LOGGER

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from tightship.serve.connection import Connection

__all__ = ["STATUS_LINES", "Exchange", "Heads", "run_at_once"]

SMALL_BYTES = 1 << 16
"""Bodies up to this are written together with their head; for longer ones the copy costs more than the write."""

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}
MAX_KNOWN_HEADS = 1024
WITHOUT_BODY = frozenset({204, 304})
FAILED = {
    "status": 500,
    "headers": ((b"content-type", b"application/json"), (b"content-length", b"29"), (b"connection", b"close")),
}
FAILED_BODY = b'{"error":"the server failed"}'


class Exchange:
    """A request as it arrives, and its answer as it leaves."""

    arrived = False
    started = False
    finished = False
    task: asyncio.Task[None] | None = None
    _changed: asyncio.Future[None] | None = None
    _delivered = False
    _start: dict[str, Any] | None = None
    _announced: int | None = None
    _chunked = False
    _silent = False

    def __init__(self, connection: Connection, scope: dict[str, Any], keep_alive: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.body: list[bytes] = []
        self._connection = connection

    def notify(self) -> None:
        """Wake who waits for the body, or for the client to go."""
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def run(self, application: Any) -> None:
        """Answer; what the application leaves undone ends in a failure, or in the end of the connection."""
        try:
            await application(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # whatever the application raises ends this request alone
            LOGGER.error("a request failed in a way that nobody foresaw", exc_info=error)
        if not self.finished and not self._connection.lost:
            if self.started:
                self._connection.abort()
            else:
                self._start, self._announced, self._chunked = FAILED, None, False
                self._write(FAILED_BODY, False)

    async def receive(self) -> dict[str, Any]:
        """Return what arrived of the body since the last call; wait where nothing did."""
        if not self.body and (self._delivered or not self.arrived):
            await self._wait()
        if self._connection.lost or self.finished:
            return {"type": "http.disconnect"}
        body = self.body[0] if len(self.body) == 1 else b"".join(self.body)
        self.body = []
        self._delivered = self.arrived
        return {"type": "http.request", "body": body, "more_body": not self.arrived}

    async def send(self, message: dict[str, Any]) -> None:
        """Take the start of an answer, or a part of its body; wait while the client does not read."""
        connection = self._connection
        if connection.paused_writing:
            await connection.drained()
        if connection.lost or self.finished:
            return
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._write(message.get("body", b""), message.get("more_body", False))

    async def _wait(self) -> None:
        self._connection.want_body(self)
        while not self.body and (self._delivered or not self.arrived) and not self._connection.lost:
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed
            if self.finished:
                return

    def _write(self, body: bytes, more: bool) -> None:
        write = self._connection.write
        part = None
        if not self.started:
            head = self._head()
            part = self._framed(body)
            if len(part) <= SMALL_BYTES:
                write(head + part)
                part = None
            else:
                write(head)
        elif body:
            part = self._framed(body)
        if part:
            write(part)
        if not more:
            self._end()

    def _end(self) -> None:
        if self._chunked and not self._silent:
            self._connection.write(b"0\r\n\r\n")
        elif self._announced:
            self.keep_alive = False  # fewer bytes than were announced: the client waits for them in vain
        self.finished = True
        self._connection.finish(self)

    def _framed(self, body: bytes) -> bytes:
        """Return a part of the body as it is written."""
        if self._announced is not None:
            if len(body) > self._announced:
                body = body[: self._announced]
            self._announced -= len(body)
            return body
        if self._silent or not body:
            return b""
        return b"%x\r\n%b\r\n" % (len(body), body)

    def _head(self) -> bytes:
        """Return the lines before the body. Raises `ValueError` where a header would forge another."""
        start = self._start
        if start is None:
            raise ValueError("an answer begins with http.response.start")
        status = start["status"]
        connection = self._connection
        written = connection.heads.written(start.get("headers", ()))
        self.started = True
        self._announced = written.body_bytes
        if written.closes:
            self.keep_alive = False
        end = b"\r\n" if self.keep_alive or written.closes else b"connection: close\r\n\r\n"
        if self.scope["method"] == "HEAD" or status in WITHOUT_BODY:
            self._silent, self._announced = True, None
        elif self._announced is None:
            self._chunked = True
            end = b"transfer-encoding: chunked\r\n" + end
        line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        return b"".join((line, connection.date_line(), written.lines, end))


class _Written(NamedTuple):
    """Headers as they are written; the length of the body that they announce, and whether they end the connection."""

    headers: object
    lines: bytes
    body_bytes: int | None
    closes: bool


class Heads:
    """The headers of one worker's answers, as they are written; the same tuple is looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, _Written] = {}

    def written(self, headers: Iterable[tuple[bytes, bytes]]) -> _Written:
        """Return headers as they are written. Raises `ValueError` where one would forge another."""
        known = self._known.get(id(headers))
        if known is not None and known.headers is headers:
            return known
        made = _write(headers)
        if type(headers) is tuple:  # it is kept, so that its id stays its own
            if len(self._known) >= MAX_KNOWN_HEADS:
                self._known.clear()
            self._known[id(headers)] = made
        return made


def _write(headers: Iterable[tuple[bytes, bytes]]) -> _Written:
    named = dict(headers)
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if lines.count(b"\n") != lines.count(b"\r") or lines.count(b"\n") != sum(1 for _ in headers):
        raise ValueError("a header of the answer has more than one line")
    length = named.get(b"content-length")
    return _Written(headers, lines, None if length is None else int(length), named.get(b"connection") == b"close")


def run_at_once(running: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run a coroutine as far as it gets; return the task that goes on with it, if it waits for something.

    What Python 3.12 calls an eager task. The coroutine must not ask for its task before it waits first.
    """
    try:
        awaited = running.send(None)
    except StopIteration:
        return None
    return loop.create_task(_go_on(running, awaited))


async def _go_on(running: Coroutine[Any, Any, None], awaited: Any) -> None:
    await _relay(running, awaited)


@coroutine
def _relay(running: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    try:
        while True:
            try:
                value = yield awaited
            except BaseException as error:
                awaited = running.throw(error)
            else:
                awaited = running.send(value)
    except StopIteration:
        return
