"""`bench`: several models on several engines, timed interleaved in one run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tightship import engines
from tightship.api import loading
from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.measurement import Latency, Machine, Ratio
from tightship.core.progress import SILENT, Progress
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.errors import EngineError, UsageError
from tightship.measure.latency import time_interleaved
from tightship.measure.machine import machine
from tightship.package.opening import NO_KEYS, Keys
from tightship.search import Source

__all__ = ["BenchRow", "BenchTable", "bench"]


@dataclass(frozen=True)
class BenchRow:
    """One model on one target. `ratio` is its time over that of the first row; `error` says why there is none."""

    model: str
    target: Target
    size_bytes: int
    latency: Latency | None
    ratio: Ratio | None
    error: str = ""


@dataclass(frozen=True)
class BenchTable:
    """The rows, what was fed, and where it ran."""

    rows: tuple[BenchRow, ...]
    data: str
    batch: int
    machine: Machine


def bench(
    models: Sequence[str | Path],
    data: str | Dataset | None = None,
    engine_names: Sequence[str] = (),
    threads: int = 0,
    batch: int = 1,
    seconds: float = 2.0,
    progress: Progress = SILENT,
    keys: Keys = NO_KEYS,
) -> BenchTable:
    """Time every model on every engine that can run it (or those named), turn by turn, on the same input.

    `batch` items are fed where the model takes any number; `seconds` is about how long each is timed; `keys` open
    packages.
    """
    if not models:
        raise UsageError("bench needs at least one model")
    sources = [loading.read(str(model), keys=keys) for model in models]
    dataset, _ = loading.data_for(data, sources[0].model, batch, seed=0)
    feed = next(feeds(dataset, sources[0].model.inputs, batch))
    pairs = [(source, target) for source in sources for target in _targets(source, engine_names, threads)]
    with ExitStack() as stack:
        opened = [_open(source, target, stack) for source, target in pairs]
        sessions = [session for session in opened if not isinstance(session, str)]
        if not sessions:
            raise EngineError("; ".join(str(reason) for reason in opened))
        timings = time_interleaved(sessions, feed.arrays, seconds=seconds, progress=progress)
        rows = []
        for (source, target), session in zip(pairs, opened, strict=True):
            place = source.artifact.entry or str(source.artifact.path)
            if isinstance(session, str):
                rows.append(BenchRow(place, target, source.artifact.size_bytes, None, None, session))
            else:
                index = sessions.index(session)
                ratio = timings.ratio(index) if index else None
                rows.append(BenchRow(place, target, source.artifact.size_bytes, timings.latency(index), ratio))
    return BenchTable(tuple(rows), dataset.name, len(next(iter(feed.arrays.values()))), machine())


def _targets(source: Source, names: Sequence[str], threads: int) -> list[Target]:
    wanted = [engines.ENGINES[name] for name in names] if names else list(engines.ENGINES.values())
    return [
        Target(engine.name, precision, threads=threads)
        for engine in wanted
        if engine.form == source.model.form and (engine.available or names)
        for precision in engine.precisions()
    ]


def _open(source: Source, target: Target, stack: ExitStack) -> Session | str:
    try:
        return stack.enter_context(engines.open_session(source.loadable, target))
    except EngineError as error:
        return str(error)
