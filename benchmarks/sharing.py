"""Push and pull of a package through docker-registry on loopback, against bare transfers of the same bytes.

The bare download is requests writing the blob to a file, flushed to disk as ours is, without a digest; the bare upload
is one PUT from a file. All files lie in a folder in memory, where there is one: the disk is not what is measured. All
runs are interleaved and counted in seconds of the wall, since the registry works in a process of its own.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import requests

from benchmarks.report import finish
from tests.package.registries import Server, running
from tightship.package import oci
from tightship.package.oci.download import partial_path

N_BYTES = 200 * 10**6
N_ROUNDS = 5
BLOCK = 1 << 20


def _bare_download(server: Server, digest: str, path: Path) -> None:
    url = f"http://{server.host}/v2/model/blobs/{digest}"
    with requests.get(url, stream=True, timeout=60) as response, path.open("wb", buffering=0) as file:
        while block := response.raw.read1(BLOCK):
            file.write(block)
        os.fsync(file.fileno())


def _bare_upload(server: Server, package: Path, digest: str) -> None:
    begun = requests.post(f"http://{server.host}/v2/bare/blobs/uploads/", timeout=60)
    with package.open("rb") as file:
        requests.put(f"{begun.headers['Location']}&digest={digest}", data=file, timeout=600).raise_for_status()


def _half_left(out: Path, package: Path, digest: str) -> None:
    """What a pull that was killed half-way leaves."""
    out.unlink(missing_ok=True)
    with package.open("rb") as file:
        partial_path(out, digest).write_bytes(file.read(N_BYTES // 2))


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure(server: Server, folder: Path) -> dict[str, list[float]]:
    """Seconds of every operation, round by round; each round has a package of its own."""
    package, out = folder / "model.ship", folder / "out.ship"
    seconds: dict[str, list[float]] = {}
    for number in range(N_ROUNDS):
        package.write_bytes(np.random.default_rng(number).bytes(N_BYTES))
        pinned = ""

        def push(package: Path = package) -> None:
            nonlocal pinned
            pinned = oci.push(package, server.place("model:1"), state=folder / "state").pinned

        made = {"push": _seconds(push), "push of what is there": _seconds(push)}
        digest = oci.pull(pinned, out).package_digest
        made["bare upload"] = _seconds(lambda digest=digest: _bare_upload(server, package, digest))
        made["bare download"] = _seconds(lambda digest=digest: _bare_download(server, digest, folder / "bare.ship"))
        made["pull"] = _seconds(lambda place=pinned: oci.pull(place, out))
        _half_left(out, package, digest)
        made["pull, half of it there"] = _seconds(lambda place=pinned: oci.pull(place, out))
        for name, value in made.items():
            seconds.setdefault(name, []).append(value)
    return seconds


def _row(name: str, seconds: list[float], bare: list[float]) -> dict[str, Any]:
    ratios = sorted(other / own for own, other in zip(seconds, bare, strict=True))
    return {
        "operation on 200 MB": name,
        "s": statistics.median(seconds),
        "MB/s": N_BYTES / 1e6 / statistics.median(seconds),
        "of the bare transfer": statistics.median(ratios),
        "low": ratios[0],
        "high": ratios[-1],
    }


def main() -> None:
    """Measure, show and store the table."""
    where = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=where if where.is_dir() else None) as name, running(Path(name)) as server:
        seconds = measure(server, Path(name))
    rows = [
        _row(name, values, seconds["bare upload" if "up" in name or "push" in name else "bare download"])
        for name, values in seconds.items()
    ]
    finish("sharing", "push and pull through docker-registry 2.8 on loopback: median, lowest, highest of 5", rows)


if __name__ == "__main__":
    main()
