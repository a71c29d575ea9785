"""Clients that behave: they ask at a steady pace over HTTP (JSON, binary, kept and fresh connections) and gRPC.

Every answer is checked. They run in a process of their own, so that nothing that misbehaves slows them down.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from multiprocessing.queues import Queue
from typing import Any

import grpc.aio
import numpy as np

from tightship.serve.grpc_service.messages import SERVICE, message

__all__ = ["expected", "run"]

PAUSE_S = 0.02
PATIENCE_S = 20.0
TOLERANCE = 1e-4  # of sums of 512 products of numbers near one, in float32


def expected(array: np.ndarray, width: int) -> np.ndarray:
    """What the models of the soak compute: the rows' mean times 2, in every one of `width` columns."""
    return np.repeat(2.0 * array.mean(axis=1, keepdims=True), width, axis=1)


class Good:
    """Counts of what was asked, and of each way in which an answer was not what it should be."""

    def __init__(self, http_port: int, grpc_port: int, models: dict[str, tuple[int, int]], until: float) -> None:
        self.http_port = http_port
        self.grpc_port = grpc_port
        self.models = list(models.items())
        self.until = until
        self.asked: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.slowest_s = 0.0

    async def repeat(self, kind: str, ask: Callable[[str, np.ndarray], Awaitable[np.ndarray]], seed: int) -> None:
        """Ask until the time is over, and check."""
        random = np.random.default_rng(seed)
        while time.time() < self.until:
            name, (inputs, outputs) = self.models[int(random.integers(len(self.models)))]
            array = random.standard_normal((int(random.integers(1, 5)), inputs)).astype(np.float32)
            self.asked[kind] += 1
            started = time.perf_counter()
            try:
                answer = await asyncio.wait_for(ask(name, array), PATIENCE_S)
                if not np.allclose(answer, expected(array, outputs), atol=TOLERANCE, rtol=0):
                    self.failed[f"{kind}: a wrong answer"] += 1
            except Exception as error:
                self.failed[f"{kind}: {type(error).__name__}: {str(error)[:200]}"] += 1
                await asyncio.sleep(0.5)
            self.slowest_s = max(self.slowest_s, time.perf_counter() - started)
            await asyncio.sleep(PAUSE_S * 2 * random.random())


class HttpClient:
    """HTTP/1.1 by hand, on one connection that is kept, or on a fresh one for each request."""

    def __init__(self, port: int, binary: bool, keep: bool) -> None:
        self._port, self._binary, self._keep = port, binary, keep
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, model: str, array: np.ndarray) -> np.ndarray:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(self._request(model, array))
            status, headers, body = await _read_answer(reader)
        except BaseException:
            self._drop()
            raise
        if not self._keep or headers.get("connection") == "close":
            self._drop()
        if status != 200:
            raise RuntimeError(f"{status} {body[:200]!r}")
        return _tensor(headers, body)

    def _request(self, model: str, array: np.ndarray) -> bytes:
        tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": array.shape}
        document: dict[str, Any] = {"inputs": [tensor]}
        extra, tail = b"", b""
        if self._binary:
            tail = array.tobytes()
            tensor["parameters"] = {"binary_data_size": len(tail)}
            document["parameters"] = {"binary_data_output": True}
        else:
            tensor["data"] = array.ravel().tolist()
        head = json.dumps(document).encode()
        if self._binary:
            extra = b"Inference-Header-Content-Length: %d\r\n" % len(head)
        start = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n".encode()
        return b"%s%sContent-Length: %d\r\n\r\n%s%s" % (start, extra, len(head) + len(tail), head, tail)

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class GrpcClient:
    """gRPC, raw tensors, one channel."""

    def __init__(self, port: int) -> None:
        self._call = grpc.aio.insecure_channel(f"127.0.0.1:{port}").unary_unary(f"/{SERVICE}/ModelInfer")

    async def ask(self, model: str, array: np.ndarray) -> np.ndarray:
        request = message("ModelInferRequest")(model_name=model)
        request.inputs.add(name="x", datatype="FP32", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
        body = await self._call(request.SerializeToString(), timeout=PATIENCE_S)
        answer = message("ModelInferResponse").FromString(body)
        return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)


def run(http_port: int, grpc_port: int, models: dict[str, tuple[int, int]], until: float, told: Queue[Any]) -> None:
    """Ask until the moment `until`, then tell what was asked, what failed and the longest wait in seconds."""
    told.put(asyncio.run(_run(Good(http_port, grpc_port, models, until))))


async def _run(good: Good) -> tuple[dict[str, int], dict[str, int], float]:
    clients: list[tuple[str, Any]] = []
    for kind, binary, keep in (("json", False, True), ("binary", True, True), ("fresh connection", True, False)):
        clients += [(kind, HttpClient(good.http_port, binary, keep)) for _ in range(3)]
    clients += [("grpc", GrpcClient(good.grpc_port)) for _ in range(3)]
    await asyncio.gather(*(good.repeat(kind, client.ask, seed) for seed, (kind, client) in enumerate(clients)))
    return dict(good.asked), dict(good.failed), good.slowest_s


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def _tensor(headers: dict[str, str], body: bytes) -> np.ndarray:
    length = int(headers.get("inference-header-content-length", len(body)))
    output = json.loads(body[:length])["outputs"][0]
    if length < len(body):
        return np.frombuffer(body[length:], np.float32).reshape(output["shape"])
    return np.array(output["data"], np.float32).reshape(output["shape"])
