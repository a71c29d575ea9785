"""A server as a user starts it: a process of its own on free ports, with a state of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LiveServer", "free_port", "serving"]

STARTS_WITHIN_S = 60.0


@dataclass
class LiveServer:
    """Where a running server is reached, and its process."""

    http_port: int
    grpc_port: int
    state: Path
    process: subprocess.Popen[bytes]
    log: Path
    context: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.context is None else 'https'}://127.0.0.1:{self.http_port}"

    @property
    def admin_key(self) -> str:
        return (self.state / "admin.key").read_text().strip()

    def get(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Return status and body of a GET, or of a POST where there is data."""
        request = urllib.request.Request(self.url + path, data=data, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=20, context=self.context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def infer(self, model: str, inputs: list[dict[str, Any]], headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Ask for inference in JSON; return the status and the decoded answer."""
        body = json.dumps({"inputs": inputs}).encode()
        named = {"content-type": "application/json", **(headers or {})}
        status, answer = self.get(f"/v2/models/{model}/infer", body, named)
        return status, json.loads(answer)

    def stop(self) -> int:
        """Ask it to end, as systemd or a container's runtime would, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def serving(
    folder: Path, models: Sequence[Path], *options: str, context: ssl.SSLContext | None = None
) -> Iterator[LiveServer]:
    """Run `tightship serve` until the block ends; its state and log lie in `folder`. `context` is a client's of TLS."""
    http_port, grpc_port = free_port(), free_port()
    state, log = folder / "state", folder / "server.log"
    command = [sys.executable, "-m", "tightship", "serve", *map(str, models), "--state", str(state)]
    command += ["--http-port", str(http_port), "--grpc-port", str(grpc_port), *options]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    server = LiveServer(http_port, grpc_port, state, process, log, context)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(server: LiveServer) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and server.process.poll() is None:
        with suppress(OSError):
            if server.get("/v2/health/ready")[0] == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{server.log.read_text()[-4000:]}")
