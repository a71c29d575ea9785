"""What a client of gRPC may cost that drips, opens calls and says nothing, or never begins: all of it ends in time.

The clients here write frames of HTTP/2 themselves (https://www.rfc-editor.org/rfc/rfc9113#section-4.1).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import uvloop

from tests import nets
from tightship.serve.catalogue import Catalogue
from tightship.serve.grpc_service.messages import SERVICE, message
from tightship.serve.grpc_service.server import GrpcServer
from tightship.serve.grpc_service.servicer import Servicer
from tightship.serve.loaded import Opener
from tightship.serve.metrics import Metrics
from tightship.serve.routing import Routes
from tightship.serve.service import Service
from tightship.serve.settings import Limits, ServeSettings

LIMITS = Limits(max_body_bytes=1 << 18, body_timeout_s=0.5, head_timeout_s=1.0, max_connections=20)
MESSAGE_WITHIN_S = 0.5 + 0.26 + 1.0 + 1.0
"""The bound of `LIMITS` for a message, the second between two looks, and one for a machine that is busy."""

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_HEADERS = 4


class Drip:
    """A connection whose client sends what it likes, one frame at a time, and remembers what it was told."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(0.05)
        self.told = b""
        self.closed = False

    def begin(self) -> Drip:
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS)
        return self

    def send(self, kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> None:
        """Send one frame, and read what there is."""
        try:
            head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
            self.socket.sendall(head + payload)
        except OSError:
            self.closed = True
        self.read()

    def read(self) -> None:
        try:
            while piece := self.socket.recv(65536):
                self.told += piece
            self.closed = True
        except TimeoutError:
            pass
        except OSError:
            self.closed = True

    def call(self, stream: int, whole: bool = True) -> None:
        """Begin a call of ModelInfer; not `whole`: its headers go on."""
        names = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/ModelInfer", ":authority": "a"}
        names |= {"content-type": "application/grpc", "te": "trailers"}
        block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in names.items()
        )
        self.send(HEADERS, stream, block if whole else block[:20], END_HEADERS if whole else 0)

    def frames(self) -> list[tuple[int, int, bytes]]:
        """Kind, stream and payload of every frame that came."""
        found, at = [], 0
        while at + 9 <= len(self.told):
            length = int.from_bytes(self.told[at : at + 3], "big")
            kind, stream = self.told[at + 3], int.from_bytes(self.told[at + 5 : at + 9], "big")
            found.append((kind, stream, self.told[at + 9 : at + 9 + length]))
            at += 9 + length
        return found

    def ended(self, stream: int) -> bool:
        return any(found == stream and kind in (HEADERS, RST_STREAM) for kind, found, _ in self.frames())


Start = Callable[[Limits], int]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    folder = tmp_path_factory.mktemp("bounds")
    model = nets.save(nets.mlp(4), folder, "net.onnx")
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[GrpcServer] = []

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    def begin(limits: Limits) -> int:
        catalogue = Catalogue(Opener(limits), Metrics())
        catalogue.loop = loop
        catalogue.load("net", "1", model)
        catalogue.route("net", Routes("1"))
        settings = ServeSettings(Path(folder), grpc_port=0, limits=limits)

        async def serve() -> GrpcServer:
            server = GrpcServer(Servicer(Service(settings, catalogue, Metrics())), settings)
            await server.start()
            return server

        servers.append(run(serve()))
        return servers[-1].port

    yield begin
    for server in servers:
        run(server.stop(0.5))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@dataclass
class Good:
    """A client over one channel that asks all the time, and what became of it."""

    port: int
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)

    def __enter__(self) -> Good:
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def _ask(self) -> None:
        request = message("ModelInferRequest")(model_name="net", raw_input_contents=[bytes(16)])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        call = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        while not self._ended.wait(0.002):
            try:
                call(request.SerializeToString(), timeout=20)
                self.answered += 1
            except grpc.RpcError as error:
                self.failed.append(str(error))


def until(condition: Callable[[], bool], within_s: float, drip: Callable[[], None]) -> float:
    """Drip until a condition holds; return the seconds that took. Fails where it takes longer than `within_s`."""
    since = time.monotonic()
    while not condition():
        drip()
        time.sleep(0.05)
        assert time.monotonic() - since < within_s, f"nothing has ended within {within_s} s"
    return time.monotonic() - since


def test_a_call_whose_message_drips_or_never_comes_is_ended_and_its_neighbours_are_not(start: Start) -> None:
    port = start(LIMITS)
    drip = Drip(port).begin()
    with Good(port) as good:
        drip.call(1)
        drip.call(3)
        drip.send(DATA, 1, b"\0" + struct.pack(">I", 1 << 17))  # a message of 128 KiB begins
        took_s = until(lambda: drip.ended(1) and drip.ended(3), MESSAGE_WITHIN_S, lambda: drip.send(DATA, 1, b"x"))
    assert took_s > 0.5
    assert b"did not arrive within 1 s" in drip.told
    assert good.failed == [] and good.answered > 50
    assert not drip.closed  # other calls of the connection could go on


def test_a_call_without_a_message_is_refused(start: Start) -> None:
    drip = Drip(start(LIMITS)).begin()
    drip.call(1)
    drip.send(DATA, 1, flags=1)  # END_STREAM
    until(lambda: drip.ended(1), MESSAGE_WITHIN_S, drip.read)
    assert b"the call has no message" in drip.told


def test_headers_that_drip_end_with_their_connection_while_a_good_client_loses_no_request(start: Start) -> None:
    port = start(replace(LIMITS, connection_age_s=1.0, connection_grace_s=0.5))
    drip = Drip(port).begin()
    with Good(port) as good:
        drip.call(1, whole=False)
        until(lambda: drip.closed, 1.1 + 0.5 + 1.5, lambda: drip.send(CONTINUATION, 1, b""))
        time.sleep(2.5)  # the good client's connection is renewed a second time
    assert good.failed == [] and good.answered > 100


def test_a_connection_that_never_begins_is_closed(start: Start) -> None:
    silent = Drip(start(LIMITS))
    until(lambda: silent.closed, LIMITS.head_timeout_s + 1.5, silent.read)


def test_a_client_that_asks_much_at_once_waits_for_its_turn_and_loses_nothing(start: Start) -> None:
    request = message("ModelInferRequest")(model_name="net", raw_input_contents=[np.ones(4, np.float32).tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    port = start(replace(LIMITS, max_connections=1000))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        calls = [call.future(request.SerializeToString(), timeout=30) for _ in range(600)]
        assert all(found.result() for found in calls)


def test_more_connections_than_allowed_are_closed_and_those_before_them_answered(start: Start) -> None:
    port = start(replace(LIMITS, max_connections=3))
    held = [Drip(port).begin() for _ in range(3)]
    late = Drip(port).begin()
    until(lambda: late.closed, 2.0, late.read)
    assert not any(one.closed for one in held)
