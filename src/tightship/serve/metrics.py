"""What a worker counts while it serves: plain integers, changed on the event loop's thread, nothing else per request.

`Metrics.observe` and its siblings cost about half a microsecond. Everything that costs more, merging the workers and
writing Prometheus' text, reads `Metrics.snapshot` once a second or per scrape: see `snapshots` and `exposition`.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left

import msgspec

__all__ = ["BATCH_BOUNDS", "LATENCY_BOUNDS", "Metrics", "Series", "Snapshot"]

LATENCY_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the latency histogram, in seconds; one more bucket holds what took longer."""

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the histogram of batch sizes, in requests that ran together."""


class Series(msgspec.Struct):
    """What one version of one model did in one worker, or in all together.

    `latency` and `batches` count per bucket, not cumulated. `queued` and `running` are the requests waiting and being
    run at this moment; all else only grows.
    """

    model: str
    version: str
    latency: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    latency_sum_s: float = 0.0
    failures: dict[str, int] = {}
    batches: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BATCH_BOUNDS) + 1))
    batched_requests: int = 0
    queued: int = 0
    running: int = 0

    @property
    def requests(self) -> int:
        """Requests answered, with or without success."""
        return sum(self.latency)

    @property
    def failed(self) -> int:
        """Requests answered with a failure."""
        return sum(self.failures.values())

    def quantile(self, fraction: float) -> float:
        """Latency in seconds below which this fraction of the requests lies, interpolated in its bucket; 0 for none."""
        wanted = fraction * self.requests
        low = 0.0
        if not wanted:
            return low
        for count, high in zip(self.latency, (*LATENCY_BOUNDS, LATENCY_BOUNDS[-1]), strict=True):
            if count and wanted <= count:
                return low + (high - low) * wanted / count
            wanted -= count
            low = high
        return low


class Snapshot(msgspec.Struct):
    """All that a worker counted, at one moment."""

    pid: int
    written: float
    started: float
    series: list[Series] = []
    refused: dict[str, int] = {}
    resident_bytes: int = 0
    cpu_s: float = 0.0


class Metrics:
    """The counters of one worker."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], Series] = {}
        self._refused: dict[str, int] = {}
        self._started = time.time()

    def observe(self, model: str, version: str, seconds: float, failure: str = "") -> None:
        """Count one answered request to a version that is there; `failure` is the name of its error, empty for none."""
        series = self._series.get((model, version)) or self.of(model, version)
        series.latency[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        series.latency_sum_s += seconds
        if failure:
            series.failures[failure] = series.failures.get(failure, 0) + 1

    def refuse(self, reason: str) -> None:
        """Count one request that reached no model: `Unauthorised`, `NoSuchModel`, `TooLarge`, ..., a fixed few."""
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def batch(self, model: str, version: str, size: int) -> None:
        """Count one run of the model for `size` requests together."""
        series = self._series.get((model, version)) or self.of(model, version)
        series.batches[bisect_left(BATCH_BOUNDS, size)] += 1
        series.batched_requests += size

    def of(self, model: str, version: str) -> Series:
        """Return the live series of a version; a queue sets its `queued` and `running` straight."""
        return self._series.setdefault((model, version), Series(model, version))

    def snapshot(self) -> Snapshot:
        """Return what was counted until now; what belongs to it may go on being counted."""
        import psutil

        with (process := psutil.Process()).oneshot():
            times = process.cpu_times()
            resident = process.memory_info().rss
        series = list(self._series.values())
        cpu_s = times.user + times.system
        return Snapshot(os.getpid(), time.time(), self._started, series, dict(self._refused), resident, cpu_s)
