"""`run`: a model, or one in a package, on data; outputs to an `.npz` file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tightship import engines
from tightship.api import loading
from tightship.core import atomic, sources
from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.progress import SILENT, Progress
from tightship.core.session import Session
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.errors import UsageError
from tightship.package import opening
from tightship.package.opening import NO_KEYS, Keys

__all__ = ["Ran", "run"]


@dataclass(frozen=True)
class Ran:
    """What was run on what: the outputs that were written, how long opening and running took, and notes."""

    model: str
    target: Target
    data: str
    output: str
    outputs: tuple[TensorSpec, ...]
    n_items: int
    open_ms: float
    run_ms: float
    notes: tuple[str, ...]


def run(
    model: str | Path,
    data: str | Dataset,
    output: str | Path,
    engine: str = "",
    threads: int = 0,
    artifact: str = "",
    keys: Keys = NO_KEYS,
    progress: Progress = SILENT,
) -> Ran:
    """Run a model on all items of `data` and write every output, by name, to the `.npz` file `output`.

    A package is opened in memory: its first artifact or the one named `artifact`, on the target that it was proven on
    unless `engine` says otherwise. Raises `DatasetMismatch` where the data does not fit.
    """
    place = Path(output)
    if place.suffix.lower() != ".npz":
        raise UsageError(f"{place}: outputs are written as .npz; expected for instance {place.with_suffix('.npz')}")
    atomic.check_writable(place, None)
    started = time.perf_counter()
    with _session(str(model), engine, threads, artifact, keys) as session:
        open_ms = 1e3 * (time.perf_counter() - started)
        dataset, notes = sources.fit(sources.load(data) if isinstance(data, str) else data, session.inputs)
        started = time.perf_counter()
        with progress.step("running"):
            batches = list(_outputs(session, dataset))
        run_ms = 1e3 * (time.perf_counter() - started)
        arrays = {spec.name: _joined([batch[spec.name] for batch in batches]) for spec in session.outputs}
        target = session.target
    with atomic.writing(place) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    specs = tuple(TensorSpec(name, array.dtype.name, array.shape) for name, array in arrays.items())
    return Ran(
        str(model), target, dataset.name, str(place), specs, dataset.n_items, round(open_ms, 3), round(run_ms, 3), notes
    )


def _session(model: str, engine: str, threads: int, artifact: str, keys: Keys) -> Session:
    if opening.is_package(model):
        return opening.open_session(model, engine, threads, keys, artifact)
    source = loading.read(model)
    return engines.open_session(source.loadable, Target(engine or source.target.engine, threads=threads))


def _outputs(session: Session, dataset: Dataset) -> Iterator[dict[str, np.ndarray]]:
    for feed in feeds(dataset, session.inputs):
        yield feed.unpad(session.run(feed.arrays))


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts[0].ndim else np.stack(parts)
