"""`/metrics`: what all workers counted, in Prometheus' text format and by its conventions for names and units."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import tightship
from tightship.core import extras
from tightship.serve.metrics import BATCH_BOUNDS, LATENCY_BOUNDS, Metrics, Series
from tightship.serve.snapshots import MetricsFolder, Totals

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily, Metric

__all__ = ["exposition"]

LABELS = ("model", "version")


def exposition(folder: MetricsFolder, metrics: Metrics, accept: str = "") -> tuple[bytes, str]:
    """Return the body and the content type of `/metrics`; `accept` is the scraper's Accept header.

    The own counters are written first, so that a scrape answered by another worker never sees less.
    """
    client = extras.require("prometheus_client", "/metrics")
    folder.write(metrics)
    registry = client.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(folder.totals()))
    encode, content_type = client.exposition.choose_encoder(accept)
    return encode(registry), content_type


class _Collector:
    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        yield from _processes(self._totals)
        yield from _traffic(self._totals.series)
        yield from _latencies(self._totals.series)


def _processes(totals: Totals) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    yield InfoMetricFamily("tightship_build", "The server's version.", {"version": tightship.__version__})
    yield GaugeMetricFamily("tightship_workers", "Worker processes alive.", totals.workers)
    yield GaugeMetricFamily("tightship_resident_memory_bytes", "Resident memory of the workers.", totals.resident_bytes)
    yield CounterMetricFamily("tightship_cpu_seconds", "CPU time of all workers so far.", totals.cpu_s)
    refused = CounterMetricFamily(
        "tightship_refused_requests", "Requests that reached no model, by reason.", labels=("reason",)
    )
    for reason, count in sorted(totals.refused.items()):
        refused.add_metric((reason,), count)
    yield refused


def _traffic(series: Sequence[Series]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    requests = CounterMetricFamily("tightship_inference_requests", "Requests answered.", labels=LABELS)
    failures = CounterMetricFamily(
        "tightship_inference_failures", "Requests answered with a failure, by reason.", labels=(*LABELS, "reason")
    )
    queued = GaugeMetricFamily("tightship_inference_queued_requests", "Requests waiting for a run.", labels=LABELS)
    running = GaugeMetricFamily("tightship_inference_running_requests", "Requests being run.", labels=LABELS)
    for entry in series:
        names = (entry.model, entry.version)
        requests.add_metric(names, entry.requests)
        queued.add_metric(names, entry.queued)
        running.add_metric(names, entry.running)
        for reason, count in sorted(entry.failures.items()):
            failures.add_metric((*names, reason), count)
    yield from (requests, failures, queued, running)


def _latencies(series: Sequence[Series]) -> Iterator[Metric]:
    from prometheus_client.core import HistogramMetricFamily

    latency = HistogramMetricFamily(
        "tightship_inference_duration_seconds", "Time from the whole request to its answer.", labels=LABELS
    )
    batches = HistogramMetricFamily(
        "tightship_inference_batch_size", "Requests that ran together in one run of the model.", labels=LABELS
    )
    for entry in series:
        _add(latency, entry, LATENCY_BOUNDS, entry.latency, entry.latency_sum_s)
        _add(batches, entry, BATCH_BOUNDS, entry.batches, entry.batched_requests)
    yield from (latency, batches)


def _add(
    family: HistogramMetricFamily, entry: Series, bounds: Sequence[float], counts: Sequence[int], total: float
) -> None:
    names = [str(float(bound)) for bound in bounds] + ["+Inf"]
    cumulated = list(zip(names, itertools.accumulate(counts), strict=True))
    family.add_metric((entry.model, entry.version), cumulated, total)
