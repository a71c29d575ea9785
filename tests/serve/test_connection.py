"""The HTTP server against clients as they come: slow, vanished, garbled, greedy, or in a hurry."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("httptools")

from tightship.serve.connection import Connection
from tightship.serve.exchange import Heads
from tightship.serve.settings import Limits

LIMITS = Limits(max_head_bytes=2000, head_timeout_s=1.0, body_timeout_s=2.0, keep_alive_s=5.0, max_connections=3)
POST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"

Ask = Callable[["Server"], Awaitable[None]]


class Echo:
    """An application that answers with the body; `/wait` waits for `gate`, `/big` answers with a megabyte."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.answered_at_once = 0
        self.headers: Any = ((b"content-type", b"text/plain"),)

    def hot(self, path: str) -> bool:
        return path.startswith("/hot")

    def at_once(self, path: str, headers: dict[bytes, bytes], body: bytes) -> Any:
        if path != "/hot/quick" or body == b"wait":
            return None
        self.answered_at_once += 1
        return 200, body, (*self.headers, (b"content-length", b"%d" % len(body)))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.entered.set()
        body, more = b"", scope["path"] != "/unread"
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body, more = body + message["body"], message["more_body"]
            if scope["path"].endswith("/wait"):
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            body = b"too slow"
        if scope["path"] == "/fail":
            raise KeyError("a bug")
        if scope["path"] == "/big":
            body = b"x" * (1 << 20)
        headers = self.headers
        if scope["path"] != "/chunked":
            headers = (*headers, (b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        half = len(body) // 2
        if half:
            await send({"type": "http.response.body", "body": body[:half], "more_body": True})
        await send({"type": "http.response.body", "body": body[half:]})


class Server:
    """Connections on a free port, swept by hand."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(
            connections=set(), tasks=set(), total_requests=0, default_headers=[(b"date", b"now")]
        )
        self.application = Echo()
        self.port = 0

    async def start(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        make = functools.partial(
            Connection, None, self.state, {}, loop, application=self.application, limits=LIMITS, heads=Heads()
        )
        listening = await loop.create_server(make, "127.0.0.1", 0)
        self.port = listening.sockets[0].getsockname()[1]
        return listening

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def sweep(self, later_s: float) -> None:
        for connection in list(self.state.connections):
            connection.sweep(time.monotonic() + later_s)

    async def ask(self, sent: bytes) -> bytes:
        """Send a request that is the last, and return all that is answered."""
        reader, writer = await self.connect()
        writer.write(sent.replace(b"Host: a", b"Connection: close", 1))
        return await asyncio.wait_for(reader.read(), 20)


def served(ask: Ask) -> None:
    """Run a conversation with a server of its own."""

    async def main() -> None:
        server = Server()
        async with await server.start():
            await asyncio.wait_for(ask(server), 30)

    asyncio.run(main())


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read one answer with a known length; return its head and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


@pytest.mark.parametrize("path", [b"/hot", b"/cold"])
def test_a_request_is_answered_and_the_connection_kept(path: bytes) -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        for word in (b"one", b"two"):
            writer.write(POST % (path, 3) + word)
            head, body = await answer(reader)
            assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: now\r\n") and body == word
        writer.close()

    served(talk)


@pytest.mark.parametrize("path", [b"/hot", b"/cold", b"/hot/wait"])
def test_requests_sent_ahead_are_answered_in_their_order(path: bytes) -> None:
    async def talk(server: Server) -> None:
        server.application.gate.set()
        reader, writer = await server.connect()
        writer.write(b"".join(POST % (path, 4) + b"%04d" % number for number in range(500)))
        for number in range(500):
            assert (await answer(reader))[1] == b"%04d" % number
        writer.close()

    served(talk)


def test_requests_that_begin_as_the_one_before_are_answered_at_once_where_they_can_be() -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        for word in (b"parsed", b"quick1", b"quick2", b"four", b"wait", b"five"):
            writer.write(POST % (b"/hot/quick", len(word)) + word)
            head, body = await answer(reader)
            assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: now\r\n") and body == word
        writer.write((POST % (b"/hot/quick", 4) + b"same") * 3)  # sent ahead: parsed
        assert [(await answer(reader))[1] for _ in range(3)] == [b"same"] * 3
        request = POST % (b"/hot/quick", 4) + b"half"
        writer.write(request[:-2])
        await asyncio.sleep(0.02)
        writer.write(request[-2:])
        assert (await answer(reader))[1] == b"half"
        writer.close()
        assert server.application.answered_at_once == 3

    served(talk)


def test_a_body_that_looks_like_a_request_is_a_body() -> None:
    async def talk(server: Server) -> None:
        inner = POST % (b"/hot/quick", 2) + b"in"
        outer = POST % (b"/cold", len(inner))
        reader, writer = await server.connect()
        writer.write(inner)
        assert (await answer(reader))[1] == b"in"
        writer.write(outer)
        await server.application.entered.wait()
        await asyncio.sleep(0.02)
        writer.write(inner)  # the very bytes of a request before, where a body is awaited
        assert (await answer(reader))[1] == inner
        writer.close()

    served(talk)


def test_a_body_that_comes_in_pieces_is_put_together() -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        body = bytes(range(256)) * 4000
        request = POST % (b"/hot", len(body)) + body
        for start in range(0, len(request), 300_001):
            writer.write(request[start : start + 300_001])
            await writer.drain()
            await asyncio.sleep(0.001)
        assert (await answer(reader))[1] == body
        writer.close()

    served(talk)


def test_a_chunked_body_is_taken() -> None:
    async def talk(server: Server) -> None:
        head = b"POST /hot HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert (await server.ask(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).endswith(b"\r\n\r\nabcde")

    served(talk)


def test_an_answer_without_a_length_is_chunked() -> None:
    async def talk(server: Server) -> None:
        found = await server.ask(POST % (b"/chunked", 4) + b"abcd")
        assert b"transfer-encoding: chunked" in found and found.endswith(b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")

    served(talk)


def test_head_is_answered_without_a_body() -> None:
    async def talk(server: Server) -> None:
        found = await server.ask(b"HEAD /big HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"content-length: 1048576" in found and found.endswith(b"\r\n\r\n")

    served(talk)


def test_a_client_that_asks_whether_to_go_on_is_told_so_once() -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write(b"POST /cold HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        await asyncio.sleep(0.01)
        writer.write(b"cd")
        assert (await answer(reader))[1] == b"abcd"
        writer.close()

    served(talk)


def test_http_1_0_is_answered_and_closed() -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write(b"POST /hot HTTP/1.0\r\nContent-Length: 2\r\n\r\nab")
        found = await reader.read()
        assert b"connection: close" in found and found.endswith(b"\r\n\r\nab")
        writer.close()

    served(talk)


@pytest.mark.parametrize(
    "garbage", [b"\0\1\2\3\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00" + bytes(100)]
)
def test_what_is_no_http_is_refused(garbage: bytes) -> None:
    async def talk(server: Server) -> None:
        assert (await server.ask(garbage)).startswith(b"HTTP/1.1 400 ")

    served(talk)


@pytest.mark.parametrize("start", [b"GET /hot HTTP/1.1\r\nA: ", b"GET /"])
def test_headers_without_an_end_are_refused(start: bytes) -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write(start + b"x" * 3000)
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")

    served(talk)


def test_a_client_that_never_ends_its_headers_is_dropped() -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write(b"POST /hot HTTP/1.1\r\nA: ")
        await asyncio.sleep(0.05)
        server.sweep(0.0)
        server.sweep(0.9)
        assert server.state.connections
        server.sweep(1.1)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)

    served(talk)


def test_a_client_that_never_asks_is_dropped() -> None:
    async def talk(server: Server) -> None:
        reader, _ = await server.connect()
        await asyncio.sleep(0.05)
        server.sweep(0.0)
        server.sweep(1.1)
        assert await reader.read() == b""

    served(talk)


def test_a_kept_connection_is_dropped_when_it_was_idle_for_long() -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write(POST % (b"/hot", 1) + b"a")
        await answer(reader)
        server.sweep(0.0)
        server.sweep(4.9)
        assert server.state.connections
        server.sweep(5.1)
        assert await reader.read() == b""

    served(talk)


def test_a_body_that_comes_too_slowly_ends_the_request_and_the_connection() -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write(POST % (b"/hot", 100) + b"a")
        await server.application.entered.wait()
        server.sweep(0.0)
        writer.write(b"b")
        await asyncio.sleep(0.05)
        server.sweep(1.9)
        assert not server.application.cancelled.is_set()
        server.sweep(2.1)
        found = await reader.read()
        assert found.endswith(b"too slow") and b"connection: close" in found

    served(talk)


def test_a_large_body_that_keeps_coming_is_given_more_time() -> None:
    async def talk(server: Server) -> None:
        _, writer = await server.connect()
        writer.write(POST % (b"/cold", 500_000) + b"a")
        await server.application.entered.wait()
        server.sweep(0.0)
        writer.write(b"b" * 200_000)
        await writer.drain()
        await asyncio.sleep(0.1)
        server.sweep(5.9)  # two seconds, and four for what came
        assert not server.application.cancelled.is_set()
        writer.close()

    served(talk)


@pytest.mark.parametrize("path", [b"/hot/wait", b"/cold/wait"])
def test_the_request_of_a_client_that_goes_is_cancelled(path: bytes) -> None:
    async def talk(server: Server) -> None:
        _, writer = await server.connect()
        writer.write(POST % (path, 1) + b"a")
        await server.application.entered.wait()
        writer.transport.abort()
        await server.application.cancelled.wait()
        await asyncio.sleep(0.01)
        assert not server.state.connections and not server.state.tasks

    served(talk)


def test_a_client_that_does_not_read_is_dropped() -> None:
    async def talk(server: Server) -> None:
        _, writer = await server.connect()
        for _ in range(40):
            writer.write(POST % (b"/big", 0))
        while not any(connection.paused_writing for connection in server.state.connections):
            await asyncio.sleep(0.01)
        server.sweep(0.0)
        server.sweep(2.1)
        await asyncio.sleep(0.01)
        assert not server.state.connections
        writer.close()

    served(talk)


def test_what_nobody_reads_of_a_body_is_skipped() -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write(POST % (b"/unread", 400_000))
        assert (await answer(reader))[1] == b""
        writer.write(b"x" * 400_000 + POST % (b"/hot", 2) + b"ok")
        assert (await answer(reader))[1] == b"ok"
        writer.close()

    served(talk)


def test_who_sends_a_body_that_nobody_reads_gets_the_answer_before_the_connection_is_closed() -> None:
    async def talk(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write((POST % (b"/unread", 400_000)).replace(b"Host: a", b"Connection: close"))
        assert (await answer(reader))[1] == b""
        writer.write(b"x" * 300_000)
        await writer.drain()
        assert server.state.connections
        writer.write(b"x" * 100_000)
        assert await reader.read() == b"" and not server.state.connections

    served(talk)


@pytest.mark.parametrize("path", [b"/fail", b"/hot/wait"])
def test_an_application_that_fails_is_answered_with_500_and_closed(path: bytes) -> None:
    async def talk(server: Server) -> None:
        server.application.gate.set()
        if path != b"/fail":
            server.application.headers = ((b"x-evil", b"a\r\nset-cookie: b"),)
        found = await server.ask(POST % (path, 0))
        assert found.startswith(b"HTTP/1.1 500 ") and b"connection: close" in found and b"set-cookie" not in found

    served(talk)


def test_too_many_connections_are_refused() -> None:
    async def talk(server: Server) -> None:
        kept = [await server.connect() for _ in range(3)]
        reader, _ = await server.connect()
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        kept[0][1].write(POST % (b"/hot", 1) + b"a")
        assert (await answer(kept[0][0]))[1] == b"a"
        for _, writer in kept:
            writer.close()

    served(talk)


def test_a_server_that_ends_answers_what_was_asked_and_closes() -> None:
    async def talk(server: Server) -> None:
        (idle, _), (busy, writer) = await server.connect(), await server.connect()
        writer.write(POST % (b"/hot/wait", 1) + b"a")
        await server.application.entered.wait()
        for connection in list(server.state.connections):
            connection.shutdown()
        assert await idle.read() == b""
        server.application.gate.set()
        head, body = await answer(busy)
        assert b"connection: close" in head and body == b"a" and await busy.read() == b""

    served(talk)
