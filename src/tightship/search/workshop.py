"""Where candidates are built and measured. Every finished step is kept in the store and found again after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tightship import engines, formats
from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.measurement import Agreement, Latency, Machine, Ratio
from tightship.core.model import Model, Step
from tightship.core.passes import Pass, Quantizer, Statistics
from tightship.core.progress import SILENT, Progress
from tightship.core.recipe import Recipe
from tightship.core.session import Arrays, Session
from tightship.core.specs import TensorSpec
from tightship.core.store import Store
from tightship.core.target import Target
from tightship.measure import footprint, latency, parity, quality
from tightship.measure.metrics import Metric
from tightship.measure.quality import Scores
from tightship.search.source import Source

__all__ = ["Built", "Timing", "Workshop"]

MODEL_FILE = "model.onnx"
RECORD_FILE = "record.json"


@dataclass(frozen=True)
class Built:
    """A model file made by a recipe; `changed` says whether its last pass found anything to do.

    `key` tells it from every other file made of the same source.
    """

    path: Path
    key: str
    size_bytes: int
    changed: bool
    notes: tuple[str, ...]

    def read(self) -> Model:
        """Read the file back into the graph form."""
        return formats.read(formats.recognise(str(self.path)))


@dataclass(frozen=True)
class Timing:
    """Latency of a candidate and of the source in the same interleaved run, and their ratio."""

    latency: Latency
    source: Latency
    ratio: Ratio


@dataclass(frozen=True)
class _Record:
    changed: bool
    notes: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Workshop:
    """The source in graph form (`graph`, with inputs `specs`), the data and the store; does each step once.

    `calibration` items are never in `decision`. `machine` is part of the key of everything that is timed.
    """

    store: Store
    source: Source
    graph: Path
    specs: tuple[TensorSpec, ...]
    calibration: Dataset | None
    decision: Dataset
    metric: Metric
    machine: Machine
    seconds: float
    progress: Progress = SILENT

    def build(self, recipe: Recipe) -> Built:
        """Apply the passes one after the other, each result kept; return the last. No pass: the graph as it is."""
        built = _built(self.graph, "graph", changed=False)
        for count, entry in enumerate(recipe.passes, start=1):
            built = self._apply(built, recipe.passes[:count], entry)
        return built

    def observe(self, built: Built, before: Sequence[Pass], entry: Quantizer) -> Statistics:
        """Calibrate once for all variants of a quantizer that differ only in what they leave out."""
        parameters = {key: value for key, value in entry.step.parameters.items() if key != "exclude"}
        parts = self._parts([each.step for each in before], entry.name, parameters, self._calibration_digest(entry))
        return self.store.arrays(
            "observe", parts, lambda: entry.observe(built.read(), self.calibration, self.progress, self.store)
        )

    def time(self, built: Built, target: Target) -> Timing:
        """Time a candidate interleaved with the source, on the first decision item."""
        return self.race([(built, target)])[0]

    def race(self, entries: Sequence[tuple[Built, Target]]) -> tuple[Timing, ...]:
        """Time candidates and the source in one interleaved run, on the first decision item."""
        keys = [(built.key, target) for built, target in entries]
        parts = self._parts(keys, self.decision.digest, self.machine, self.seconds)
        return self.store.value("race", parts, tuple[Timing, ...], lambda: self._race_now(entries))

    def time_source(self) -> Latency:
        """Time the source alone."""
        parts = self._parts(self.decision.digest, self.machine, self.seconds)

        def measure() -> Latency:
            with self.source.open() as session:
                return latency.time_interleaved([session], self.inputs(), seconds=self.seconds).latency(0)

        return self.store.value("time", parts, Latency, measure)

    def score(self, built: Built | None, target: Target) -> Scores:
        """Score every decision item; None stands for the source."""
        parts = self._parts(built and built.key, target, self.decision.digest, self.metric.name, self.machine)
        return self.store.value("score", parts, Scores, lambda: self._score_now(built, target))

    def compare(self, built: Built, target: Target) -> Agreement:
        """Compare a candidate that should compute the same with its source on some decision items."""
        parts = self._parts(built.key, target, self.decision.digest, self.machine)
        return self.store.value("compare", parts, Agreement, lambda: self._compare_now(built.path, target))

    def peak_memory(self, built: Built | None, target: Target) -> int:
        """Peak memory of a few runs in a process of their own, in bytes; None stands for the source."""
        loadable = self.source.loadable if built is None else built.path
        parts = self._parts(built and built.key, target, self.machine)
        return self.store.value("memory", parts, int, lambda: footprint.peak_memory(loadable, target, self.inputs()))

    def inputs(self) -> Arrays:
        """The first decision item (or fixed batch) as it is fed for timing."""
        return next(feeds(self.decision, self.specs, 1)).arrays

    def _apply(self, before: Built, passes: Sequence[Pass], entry: Pass) -> Built:
        steps = [each.step for each in passes]
        digest = [self._calibration_digest(each) for each in passes]
        path = self.store.file(
            "build",
            self._parts(steps, digest),
            MODEL_FILE,
            lambda path: self._write(before, passes[:-1], entry, path),
        )
        record = msgspec.json.decode((path.parent / RECORD_FILE).read_bytes(), type=_Record)
        return _built(path, path.parent.name, record.changed, record.notes)

    def _write(self, before: Built, earlier: Sequence[Pass], entry: Pass, path: Path) -> None:
        model = before.read()
        if isinstance(entry, Quantizer):
            result = entry.rewrite(model, self.observe(before, earlier, entry))
        else:
            result = entry.apply(model, self.calibration, self.progress, self.store)
        formats.write(result.model, path)
        record = _Record(result.changed, result.notes, result.model.history)
        (path.parent / RECORD_FILE).write_bytes(msgspec.json.encode(record))

    def _race_now(self, entries: Sequence[tuple[Built, Target]]) -> tuple[Timing, ...]:
        sessions: list[Session] = []
        try:
            sessions.append(self.source.open())
            sessions += [engines.open_session(built.path, target) for built, target in entries]
            timings = latency.time_interleaved(sessions, self.inputs(), seconds=self.seconds, progress=self.progress)
            return tuple(
                Timing(timings.latency(index), timings.latency(0), timings.ratio(index))
                for index in range(1, len(sessions))
            )
        finally:
            for session in sessions:
                session.close()

    def _compare_now(self, path: Path, target: Target) -> Agreement:
        with self.source.open() as source, engines.open_session(path, target) as candidate:
            return parity.compare(source, candidate, self.decision, progress=self.progress)

    def _score_now(self, built: Built | None, target: Target) -> Scores:
        with self.source.open() as source:
            if built is None:
                return quality.scores(source, self.decision, self.metric, source, progress=self.progress)
            with engines.open_session(built.path, target) as session:
                return quality.scores(session, self.decision, self.metric, source, progress=self.progress)

    def _calibration_digest(self, entry: Pass) -> str:
        return self.calibration.digest if self.calibration is not None and entry.data != "none" else ""

    def _parts(self, *parts: Any) -> tuple[Any, ...]:
        from tightship import __version__

        return (__version__, self.source.digest, self.source.target, *parts)


def _built(path: Path, key: str, changed: bool, notes: tuple[str, ...] = ()) -> Built:
    return Built(path, key, formats.recognise(str(path)).size_bytes, changed, notes)
