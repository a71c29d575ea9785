"""Clients that do not behave: they vanish, send garbage, drip, send too much, or never say a word.

Each is a coroutine that misbehaves once; `run` repeats all of them in a process of its own.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from multiprocessing.queues import Queue
from typing import Any

import grpc
import grpc.aio

from tightship.serve.grpc_service.messages import SERVICE, message

__all__ = ["ABUSES", "run"]

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with which a closed connection is reset instead of ended."""

MIB = 1 << 20
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Abuse = Callable[["Target"], Awaitable[None]]


class Target:
    """The server that is abused."""

    def __init__(self, http_port: int, grpc_port: int, model: str, width: int) -> None:
        self.http_port, self.grpc_port, self.model, self.width = http_port, grpc_port, model, width

    @asynccontextmanager
    async def connection(self, grpc_port: bool = False) -> AsyncIterator[Streams]:
        streams = await asyncio.open_connection("127.0.0.1", self.grpc_port if grpc_port else self.http_port)
        try:
            yield streams
        finally:
            streams[1].close()

    def head(self, length: int | None, extra: str = "") -> bytes:
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        return f"POST /v2/models/{self.model}/infer HTTP/1.1\r\nHost: localhost\r\n{extra}{size}\r\n\r\n".encode()

    def body(self, rows: int = 4) -> bytes:
        data = [0.5] * (rows * self.width)
        tensor = {"name": "x", "datatype": "FP32", "shape": [rows, self.width], "data": data}
        return json.dumps({"inputs": [tensor]}).encode()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.close()


async def vanishes_before_the_answer(target: Target) -> None:
    async with target.connection() as (_, writer):
        body = target.body()
        writer.write(target.head(len(body)) + body)
        await writer.drain()
        _reset(writer)


async def vanishes_in_its_body(target: Target) -> None:
    async with target.connection() as (_, writer):
        body = target.body()
        writer.write(target.head(len(body)) + body[: len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.05)
        _reset(writer)


async def sends_no_http(target: Target) -> None:
    async with target.connection() as (reader, writer):
        writer.write(random.randbytes(random.randrange(1, 4096)) + b"\r\n\r\n")
        await asyncio.wait_for(reader.read(4096), 20)


async def speaks_tls_to_a_plain_port(target: Target) -> None:
    async with target.connection() as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(500))
        await asyncio.wait_for(reader.read(4096), 20)


async def sends_damaged_requests(target: Target) -> None:
    async with target.connection() as (reader, writer):
        for _ in range(5):
            body = bytearray(target.body(1))
            for _ in range(random.randrange(1, 30)):
                body[random.randrange(len(body))] = random.randrange(256)
            extra = random.choice(["", "Inference-Header-Content-Length: 77\r\n", "Content-Encoding: gzip\r\n"])
            writer.write(target.head(len(body), extra) + bytes(body))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))


async def asks_for_what_is_not_there(target: Target) -> None:
    async with target.connection() as (reader, writer):
        name = random.randbytes(12).hex()
        for path in (f"/v2/models/{name}", f"/{name}", "/v2/models/%2e%2e%2f/infer", "/../../etc/passwd"):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        writer.write(
            f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 20)


async def sends_an_endless_head(target: Target) -> None:
    async with target.connection() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        for number in range(4000):
            writer.write(b"X-%d: %s\r\n" % (number, b"y" * 200))
            await writer.drain()
        await asyncio.wait_for(reader.read(4096), 20)


async def drips_its_body(target: Target) -> None:
    async with target.connection() as (_, writer):
        body = target.body()
        writer.write(target.head(len(body)))
        for byte in body[:60]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)


async def drips_its_head(target: Target) -> None:
    async with target.connection() as (_, writer):
        for byte in target.head(10)[:60]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)


async def says_nothing(target: Target) -> None:
    async with target.connection() as (reader, _):
        await asyncio.wait_for(reader.read(1), 60)


async def announces_too_much(target: Target) -> None:
    async with target.connection() as (reader, writer):
        writer.write(target.head(10**12) + b"x" * 100_000)
        await asyncio.wait_for(reader.read(4096), 20)


async def sends_chunks_without_end(target: Target) -> None:
    async with target.connection() as (_, writer):
        writer.write(target.head(None))
        for _ in range(80):
            writer.write(b"100000\r\n" + bytes(MIB) + b"\r\n")
            await writer.drain()


BOMB = gzip.compress(bytes(256 * MIB), 1)


async def sends_a_bomb(target: Target) -> None:
    async with target.connection() as (reader, writer):
        body = BOMB
        writer.write(target.head(len(body), "Content-Encoding: gzip\r\n") + body)
        await asyncio.wait_for(reader.read(4096), 20)


async def sends_garbage_to_grpc(target: Target) -> None:
    async with target.connection(grpc_port=True) as (reader, writer):
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * random.randrange(2) + random.randbytes(2000))
        await asyncio.wait_for(reader.read(4096), 20)


async def misuses_grpc(target: Target) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{target.grpc_port}") as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        request = message("ModelInferRequest")(model_name=target.model)
        request.inputs.add(name="x", datatype="FP32", shape=[4, target.width])
        request.raw_input_contents.append(bytes(16 * target.width))
        calls = [infer(body, timeout=20) for body in (random.randbytes(300), bytes(65 * MIB))]
        hung_up = infer(request.SerializeToString(), timeout=20)
        await asyncio.sleep(random.random() * 0.003)
        hung_up.cancel()
        late = infer(request.SerializeToString(), timeout=1e-4)
        await asyncio.gather(*calls, hung_up, late, return_exceptions=True)


ABUSES: dict[Abuse, tuple[int, float]] = {
    vanishes_before_the_answer: (2, 0.05),
    vanishes_in_its_body: (2, 0.05),
    sends_no_http: (1, 0.1),
    speaks_tls_to_a_plain_port: (1, 0.2),
    sends_damaged_requests: (2, 0.1),
    asks_for_what_is_not_there: (1, 0.1),
    sends_an_endless_head: (1, 1.0),
    drips_its_body: (20, 0.5),
    drips_its_head: (20, 0.5),
    says_nothing: (30, 0.5),
    announces_too_much: (1, 0.2),
    sends_chunks_without_end: (1, 3.0),
    sends_a_bomb: (1, 3.0),
    sends_garbage_to_grpc: (1, 0.2),
    misuses_grpc: (1, 1.0),
}
"""How many do so at once, and seconds of rest between two times."""


def run(http_port: int, grpc_port: int, model: str, width: int, until: float, told: Queue[Any]) -> None:
    """Misbehave until the moment `until`, then tell how often in each way."""
    told.put(asyncio.run(_run(Target(http_port, grpc_port, model, width), until)))


async def _run(target: Target, until: float) -> dict[str, int]:
    done: Counter[str] = Counter()
    tasks = [
        asyncio.create_task(_repeat(abuse, target, rest_s, done))
        for abuse, (count, rest_s) in ABUSES.items()
        for _ in range(count)
    ]
    await asyncio.sleep(max(0.0, until - time.time()))
    while running := [task for task in tasks if not task.done()]:
        for task in running:  # more than once: Python 3.11's `wait_for` loses a cancellation now and then
            task.cancel()
        await asyncio.wait(running, timeout=1)
    return dict(done)


async def _repeat(abuse: Abuse, target: Target, rest_s: float, done: Counter[str]) -> None:
    while True:
        with suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):  # the server may end it as it likes
            await abuse(target)
        done[abuse.__name__] += 1
        await asyncio.sleep(rest_s * 2 * random.random())
