"""The counters of all workers in one folder: a file per worker, rewritten each second, and one for those that ended.

Nothing that was counted gets lost or counted twice when a worker ends: its last file stays until `retire` has added it
to `retired.json`, which names the files it holds.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from tightship.serve.metrics import Metrics, Series, Snapshot

__all__ = ["MetricsFolder", "Totals"]

RETIRED = "retired.json"
LOCK = "lock"
STALE_S = 10.0


class Totals(msgspec.Struct):
    """What all workers counted together; the gauges (`workers`, `resident_bytes`, queues) are of those alive."""

    series: list[Series] = []
    refused: dict[str, int] = {}
    workers: int = 0
    resident_bytes: int = 0
    cpu_s: float = 0.0
    started: float = 0.0

    def of(self, model: str, version: str) -> Series:
        """Return what one version did; all zero for one that nobody asked."""
        for series in self.series:
            if (series.model, series.version) == (model, version):
                return series
        return Series(model, version)


class _Retired(msgspec.Struct):
    names: list[str] = []
    totals: Totals = msgspec.field(default_factory=Totals)


class MetricsFolder:
    """STATE/metrics. `write` is of one worker; `totals` of all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writing = threading.Lock()
        self._name = f"{os.getpid()}-{time.time_ns():x}.json"
        folder.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Forget what was counted; for the start of a server, before its workers."""
        with self._locked(fcntl.LOCK_EX):
            for path in self.folder.glob("*.json*"):
                path.unlink(missing_ok=True)

    def write(self, metrics: Metrics) -> None:
        """Write this worker's counters, whole or not at all; what a power cut takes is not worth a flush a second."""
        temporary = self.folder / f"{self._name}.tmp"
        with self._writing:  # a scrape and the follower may come at once; an older snapshot must not come last
            temporary.write_bytes(msgspec.json.encode(metrics.snapshot()))
            temporary.replace(self.folder / self._name)

    def totals(self) -> Totals:
        """Return what all workers counted. It never goes back: of this worker too, what was written counts."""
        with self._locked(fcntl.LOCK_SH):
            retired = self._retired()
            snapshots = [snapshot for _, snapshot in self._snapshots(retired.names)]
        return _sum(retired.totals, snapshots)

    def retire(self) -> None:
        """Add the files of workers that ended to `retired.json`; each new worker does so once."""
        with self._locked(fcntl.LOCK_EX):
            retired = self._retired()
            for name in retired.names:  # left by who was killed between writing and removing
                (self.folder / name).unlink(missing_ok=True)
            ended = [(name, found) for name, found in self._snapshots(retired.names) if not _alive(found)]
            merged = _Retired([name for name, _ in ended], _sum(retired.totals, [found for _, found in ended]))
            temporary = self.folder / f"{RETIRED}.tmp"
            temporary.write_bytes(msgspec.json.encode(merged))
            temporary.replace(self.folder / RETIRED)
            for name in merged.names:
                (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        with (self.folder / LOCK).open("a") as lock:
            fcntl.flock(lock, kind)
            yield

    def _retired(self) -> _Retired:
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self.folder / RETIRED).read_bytes(), type=_Retired)
        return _Retired()

    def _snapshots(self, without: list[str]) -> Iterator[tuple[str, Snapshot]]:
        for path in sorted(self.folder.glob("*-*.json")):
            if path.name not in without:
                with suppress(OSError, msgspec.DecodeError):
                    yield path.name, msgspec.json.decode(path.read_bytes(), type=Snapshot)


def _alive(snapshot: Snapshot) -> bool:
    import psutil

    return time.time() - snapshot.written < STALE_S and psutil.pid_exists(snapshot.pid)


def _sum(start: Totals, snapshots: Iterable[Snapshot]) -> Totals:
    series = {(entry.model, entry.version): entry for entry in start.series}
    total = Totals(refused=dict(start.refused), cpu_s=start.cpu_s, started=start.started)
    for snapshot in snapshots:
        alive = _alive(snapshot)
        total.workers += alive
        total.resident_bytes += snapshot.resident_bytes * alive
        total.cpu_s += snapshot.cpu_s
        total.started = min(total.started or snapshot.started, snapshot.started)
        _add_counts(total.refused, snapshot.refused)
        for entry in snapshot.series:
            _add(series.setdefault((entry.model, entry.version), Series(entry.model, entry.version)), entry, alive)
    total.series = [series[name] for name in sorted(series)]
    return total


def _add(total: Series, part: Series, alive: bool) -> None:
    total.latency = [a + b for a, b in zip(total.latency, part.latency, strict=True)]
    total.batches = [a + b for a, b in zip(total.batches, part.batches, strict=True)]
    total.latency_sum_s += part.latency_sum_s
    total.batched_requests += part.batched_requests
    total.queued += part.queued * alive
    total.running += part.running * alive
    _add_counts(total.failures, part.failures)


def _add_counts(total: dict[str, int], part: dict[str, int]) -> None:
    for name, count in part.items():
        total[name] = total.get(name, 0) + count
