"""A closed loop of clients on loopback, in a process of its own: each sends a request, waits for the answer, repeats.

`python -m benchmarks.serving.closed_loop PORT CLIENTS SECONDS REQUEST_FILE` prints a JSON line: how many answers came,
how many had another status than 200, and the latencies' percentiles in milliseconds. Needs the standard library alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

__all__ = ["Client", "http_request"]


def http_request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """One HTTP/1.1 request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Client(asyncio.Protocol):
    """One connection that is kept."""

    def __init__(self, request: bytes, until: float) -> None:
        self.request, self.until = request, until
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self.done = asyncio.get_running_loop().create_future()
        self._received = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or not _whole(head, body):
            return
        now = time.perf_counter()
        self.latencies.append(now - self._sent)
        if not head.startswith(b"HTTP/1.1 200"):
            self.failures.append(self._received[:300].decode("latin-1"))
        self._received = b""
        if now < self.until:
            self._send()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if time.perf_counter() < self.until:
            self.failures.append(f"connection lost: {error}")
        if not self.done.done():
            self.done.set_result(None)


def _whole(head: bytes, body: bytes) -> bool:
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return body.endswith(b"0\r\n\r\n")
    place = lower.find(b"content-length:")
    return place < 0 or len(body) >= int(lower[place + 15 :].split(b"\r\n")[0])


async def run(port: int, n_clients: int, seconds: float, request: bytes) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    until = time.perf_counter() + seconds
    clients = [Client(request, until) for _ in range(n_clients)]
    started = time.perf_counter()
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.wait([client.done for client in clients], timeout=seconds + 30)
    latencies = sorted(value for client in clients for value in client.latencies)
    failures = [failure for client in clients for failure in client.failures]

    def percentile(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1e3 if latencies else 0.0

    return {
        "answers": len(latencies),
        "seconds": time.perf_counter() - started,
        "failures": len(failures),
        "first failure": failures[0] if failures else "",
        **{f"p{round(100 * share)} ms": percentile(share) for share in (0.5, 0.95, 0.99)},
    }


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    arguments = sys.argv[1:]
    content = Path(arguments[3]).read_bytes()
    print(json.dumps(asyncio.run(run(int(arguments[0]), int(arguments[1]), float(arguments[2]), content))))
