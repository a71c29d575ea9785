"""A closed loop of gRPC clients on loopback, in a process of its own: each calls, waits for the answer, repeats.

`python grpc_loop.py PORT CLIENTS SECONDS REQUEST_FILE` prints a JSON line: how many answers came, and in what time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc.aio

METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def run(port: int, n_clients: int, seconds: float, request: bytes) -> dict[str, float]:
    """Call until the time is over; connections are made, and every one has called once, before it begins."""
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each client, as if they were processes
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(n_clients)]
    calls = [channel.unary_unary(METHOD) for channel in channels]
    await asyncio.gather(*[call(request, wait_for_ready=True) for call in calls])
    counts = [0] * n_clients
    started = time.perf_counter()

    async def client(number: int) -> None:
        while time.perf_counter() < started + seconds:
            await calls[number](request)
            counts[number] += 1

    await asyncio.gather(*[client(number) for number in range(n_clients)])
    took = time.perf_counter() - started
    for channel in channels:
        await channel.close()
    return {"answers": sum(counts), "seconds": took}


if __name__ == "__main__":
    port, n_clients, seconds, file = sys.argv[1:]
    print(json.dumps(asyncio.run(run(int(port), int(n_clients), float(seconds), Path(file).read_bytes()))))
