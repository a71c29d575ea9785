"""One HTTP/1.1 connection: an ASGI server for uvicorn's loop, lean, and bounded in what its client may cost.

A request whose body is there and that the application calls `hot` runs at once, without a task, as far as it gets.
No request needs a timer: connections are looked at once a second (`sweep`), and those that wait too long for their
client are ended. A request ends when its client goes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import unquote

import httptools

from tightship.serve.exchange import STATUS_LINES, Exchange, Heads, run_at_once
from tightship.serve.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ["Application", "Connection"]

LEAST_RATE = 50_000
"""Bytes per second: a body may take `body_timeout_s`, and this much longer for what has arrived."""

HIGH_WATER_BYTES = 1 << 18
"""So much of a body may wait to be read by the application before the client is made to wait."""

N_LEARNT = 8
"""Requests that a connection remembers, one after the other; who sends others every time is not remembered for ever."""

UNREPEATED = frozenset({b"connection", b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"})

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REFUSAL = (
    b'HTTP/1.1 %d %b\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n{"error":"%b"}'
)


class Application(Protocol):
    """An ASGI application that knows for which paths a request is mostly answered without waiting, and can do so."""

    def hot(self, path: str) -> bool: ...

    def at_once(
        self, path: str, headers: dict[bytes, bytes], body: bytes
    ) -> tuple[int, bytes, tuple[tuple[bytes, bytes], ...]] | None:
        """Return status, body and headers of an answer, or None where it takes waiting."""
        ...

    def __call__(self, scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, None]: ...


class _Repeated(NamedTuple):
    """A request as it came whole in one piece: its head, and what that says. The next one often begins the same."""

    head: bytes
    n_bytes: int
    path: str
    headers: dict[bytes, bytes]


class Connection(asyncio.Protocol):
    """A connection, made by uvicorn's server; `limits` are what its client may take."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        application: Application,
        limits: Limits,
        heads: Heads,
    ) -> None:
        self.heads = heads
        self.lost = False
        self.paused_writing = False
        self._loop = _loop or asyncio.get_running_loop()
        self._application = application
        self._limits = limits
        self._state = server_state
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.write: Callable[[bytes], None] = _nowhere
        self._addresses: dict[str, Any] = {}
        self._arriving: Exchange | None = None
        self._current: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._in_head = False
        self._head_from = 0
        self._received = 0
        self._paused_reading = False
        self._drained: asyncio.Future[None] | None = None
        self._closing = False
        self._given_up = False
        self._timed: object = None
        self._repeated: _Repeated | None = None
        self._learning = N_LEARNT
        self._date_line = b""
        self._watched: tuple[str, int] | None = None
        self._watched_since = 0.0
        self._watched_from = 0

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        self._addresses = {
            "client": _address(transport.get_extra_info("peername")),
            "server": _address(transport.get_extra_info("sockname")),
            "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
        }
        self._state.connections.add(self)  # type: ignore[arg-type]
        if len(self._state.connections) > self._limits.max_connections:
            self._refuse(503, "there are too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._state.connections.discard(self)
        self._queue.clear()
        self.resume_writing()
        for exchange in (self._current, self._arriving):
            if exchange is not None:
                exchange.notify()
                if exchange.task is not None:
                    exchange.task.cancel()

    def data_received(self, data: bytes) -> None:
        repeated = self._repeated
        if repeated is not None and len(data) == repeated[1] and data.startswith(repeated[0]):
            if self._answered_at_once(repeated, data):
                return
        elif not self._in_head:
            self._head_from = self._received
        fresh = self._between
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request is answered as if it had not asked; nobody here speaks anything else
        except httptools.HttpParserError:
            self._refuse(400, "this is no HTTP request")
            return
        if self._in_head and self._received - self._head_from > self._limits.max_head_bytes:
            self._refuse(431, "the headers are too long")
        elif self._queue and self._current is None:
            if fresh and self._learning:
                self._learn(data)
            self._advance()

    def eof_received(self) -> bool:
        """A client that says no more has mostly gone, and what it asked for need not be worked on."""
        return False

    def pause_writing(self) -> None:
        self.paused_writing = True

    def resume_writing(self) -> None:
        self.paused_writing = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # Requests that begin as the one before

    @property
    def _between(self) -> bool:
        """Whether nothing has begun to arrive, and nothing is being answered."""
        nothing_arrives = not self._in_head and self._arriving is None
        return nothing_arrives and self._current is None and not self._queue and not self._closing

    def _learn(self, data: bytes) -> None:
        """Remember a request that is just these bytes, where the application may answer its like at once."""
        self._learning -= 1
        exchange, end = self._queue[0], data.find(b"\r\n\r\n") + 4
        scope = exchange.scope
        headers = dict(scope["headers"])
        plain = len(headers) == len(scope["headers"]) and not headers.keys() & UNREPEATED
        whole = exchange.arrived and len(self._queue) == 1 and exchange.keep_alive
        if (
            whole
            and plain
            and headers.get(b"content-length") == b"%d" % (len(data) - end)
            and scope["method"] == "POST"
        ):
            self._repeated = _Repeated(data[:end], len(data), scope["path"], headers)

    def _answered_at_once(self, repeated: _Repeated, data: bytes) -> bool:
        """Answer a request that begins as one before; False where it is to be parsed, as that one was."""
        if self.paused_writing or not self._between:
            return False
        head, _, path, headers = repeated
        found = self._application.at_once(path, headers, data[len(head) :])
        if found is None:
            return False
        status, body, described = found
        self._received += len(data)
        self._state.total_requests += 1
        lines = (STATUS_LINES[status], self.date_line(), self.heads.written(described).lines, b"\r\n", body)
        self.write(b"".join(lines))
        return True

    # What the parser calls

    def on_message_begin(self) -> None:
        self._in_head = True
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser = self._parser
        raw_path, _, query = self._url.partition(b"?")
        path = raw_path.decode("latin-1")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": parser.get_http_version(),
            "method": parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            **self._addresses,
        }
        exchange = Exchange(self, scope, parser.should_keep_alive() and not self._closing)
        self._arriving = exchange
        self._queue.append(exchange)

    def on_body(self, body: bytes) -> None:
        exchange = self._arriving
        if exchange is None or exchange.finished:
            return
        exchange.body.append(body)
        if exchange.task is not None:
            exchange.notify()
            if sum(map(len, exchange.body)) > HIGH_WATER_BYTES:
                self._pause_reading()

    def on_message_complete(self) -> None:
        exchange = self._arriving
        if exchange is not None:
            exchange.arrived = True
            self._arriving = None
            if exchange.task is not None:
                exchange.notify()
            if exchange.finished and self._closing:
                self._transport.close()
            elif self._current is not None and self._current is not exchange:
                self._pause_reading()  # a client that sends request after request waits for its answers

    # What an exchange calls

    def want_body(self, exchange: Exchange) -> None:
        """The application waits for a body: have the client send it."""
        if not exchange.arrived:
            for name, value in exchange.scope["headers"]:
                if name == b"expect" and value.lower() == b"100-continue" and not exchange.started:
                    self.write(CONTINUE)
                    exchange.scope["headers"] = [entry for entry in self._headers if entry[0] != b"expect"]
        self._resume_reading()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    async def drained(self) -> None:
        """Wait until the client has read what was written."""
        while self.paused_writing and not self.lost:
            if self._drained is None or self._drained.done():
                self._drained = self._loop.create_future()
            await self._drained

    def date_line(self) -> bytes:
        """Return the header that tells the time, which uvicorn's server sets once a second."""
        headers = self._state.default_headers
        if headers is not self._timed:
            self._timed = headers
            self._date_line = b"%b: %b\r\n" % headers[0] if headers else b""
        return self._date_line

    def finish(self, exchange: Exchange) -> None:
        """The answer has been written."""
        self._state.total_requests += 1
        self._current = None
        if not exchange.keep_alive:
            self._closing = True
            if exchange.arrived or self._given_up:
                self._transport.close()
            else:
                self._resume_reading()  # closed before it has sent all, a client would lose the answer
        elif self._queue:
            self._loop.call_soon(self._advance)
        else:
            self._resume_reading()

    # What uvicorn's server calls

    def shutdown(self) -> None:
        """Take no more requests; end after the one under way."""
        self._closing = True
        if self._current is not None:
            self._current.keep_alive = False
        elif not self._queue:
            self._transport.close()

    def sweep(self, now: float) -> None:
        """Look whether this connection has waited too long for its client; `now` is `time.monotonic`."""
        state = self._waiting_for()
        if state != self._watched:
            self._watched, self._watched_since, self._watched_from = state, now, self._received
        elif state is not None and now - self._watched_since > self._patience(state[0]):
            self._give_up(state[0])

    def _waiting_for(self) -> tuple[str, int] | None:
        """What the client owes, and for which request."""
        current = self._current
        if self.paused_writing:
            return "reading", id(current)
        if current is not None:
            return None if current.arrived else ("body", id(current))
        if self._in_head or self._arriving is not None:
            return "head", self._head_from
        return "request", self._received

    def _patience(self, state: str) -> float:
        limits = self._limits
        if state in ("request", "head"):
            return limits.keep_alive_s if state == "request" and self._received else limits.head_timeout_s
        return limits.body_timeout_s + (self._received - self._watched_from) / LEAST_RATE

    def _give_up(self, state: str) -> None:
        current = self._current
        if state == "body" and current is not None and current.task is not None:
            self._given_up, current.keep_alive = True, False
            current.task.cancel()  # what reads the body answers 408
            self._watched = None
        elif state == "request":
            self._transport.close()
        else:
            self._transport.abort()

    def _advance(self) -> None:
        """Begin to answer the next request, and those after it that are answered at once."""
        while self._queue and self._current is None and not self.lost:
            exchange = self._current = self._queue.popleft()
            running = exchange.run(self._application)
            if exchange.arrived and self._application.hot(exchange.scope["path"]):
                task = run_at_once(running, self._loop)
            else:
                task = self._loop.create_task(running)
            if task is not None:
                exchange.task = task
                self._state.tasks.add(task)
                task.add_done_callback(self._state.tasks.discard)

    def _resume_reading(self) -> None:
        if self._paused_reading and not self.lost:
            self._paused_reading = False
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._paused_reading:
            self._paused_reading = True
            self._transport.pause_reading()

    def _refuse(self, status: int, reason: str) -> None:
        text = reason.encode()
        self._transport.write(REFUSAL % (status, text, len(text) + 12, text))
        self._transport.close()


def _nowhere(data: bytes) -> None:
    """Where answers go before there is a client."""


def _address(found: Any) -> tuple[str, int] | None:
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) and len(found) >= 2 else None
