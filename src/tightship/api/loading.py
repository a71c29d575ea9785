"""From what the user names to what the verbs work on: models, graphs, data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from tightship import bridges, engines, formats
from tightship.core import sources
from tightship.core.dataset import Dataset
from tightship.core.measurement import Agreement
from tightship.core.model import Model
from tightship.core.progress import Progress
from tightship.core.shapes import fix_input_shapes
from tightship.core.store import Store
from tightship.core.target import Target
from tightship.errors import DatasetError, ParityError
from tightship.measure import parity
from tightship.measure.generate import generate
from tightship.package.opening import NO_KEYS, Keys, is_package, read_packed
from tightship.search import Source

__all__ = ["Split", "data_for", "default_metric", "drawable", "graph_of", "read", "split_data", "store_at"]

N_CALIBRATION = 100
N_GENERATED_CALIBRATION = 32
N_GENERATED_DECISION = 64
N_PARITY = 8


@dataclass(frozen=True)
class Split:
    """Items that calibrate and items that decide, with none in common, and what was adapted to fit the model."""

    calibration: Dataset
    decision: Dataset
    notes: tuple[str, ...]


def read(
    source: str,
    weights: Path | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    trusted: Sequence[str] = (),
    keys: Keys = NO_KEYS,
) -> Source:
    """Read a model file, or call the function that builds it; `shapes` fixes those of inputs.

    `trusted` names the classes that a pickle may import, `keys` what opens a package and who must have signed it.
    """
    if is_package(source):
        return read_packed(source, keys, shapes)
    artifact = formats.recognise(source, weights)
    return Source.of(artifact, fix_input_shapes(*formats.read_shaped(artifact, shapes or {}, trusted)))


def drawable(model: Model, progress: Progress) -> Model:
    """Return a form of the model that inputs can be made up for: its graph knows what is an index and what an image."""
    return bridges.route(model, "graph", progress) if model.form == "keras" else model


def store_at(work: Path | None, resume: bool) -> Store:
    """Open the work folder: `work`, or one in the user's cache. Without `resume` what it holds by now is not reused."""
    return Store(work or Path(platformdirs.user_cache_dir("tightship")), 0.0 if resume else time.time()).open()


def graph_of(source: Source, store: Store, progress: Progress) -> Path:
    """Return the source as an ONNX file; what is none is converted once, and the conversion is proven.

    Raises `ParityError` where the graph does not compute what the source does.
    """
    if source.artifact.format == "onnx":
        return source.artifact.path

    def convert(path: Path) -> None:
        with progress.step("converting to a graph"):
            formats.write(bridges.route(source.model, "graph", progress), path)

    path = store.file("graph", (source.digest,), "model.onnx", convert)
    agreement = store.value("parity", (source.digest,), Agreement, lambda: _compare(source, path, progress))
    if not agreement.agrees:
        raise ParityError(
            f"{source.artifact.entry or source.artifact.path}: the converted graph differs from it: "
            f"{agreement.cause or f'output {agreement.output!r} is off by {agreement.max_abs:.3g}'}"
        )
    return path


def data_for(data: str | Dataset | None, model: Model, n_generated: int, seed: int) -> tuple[Dataset, tuple[str, ...]]:
    """Return data that fits the model: the user's, or generated where there is none."""
    if data is None:
        return generate(model, n_generated, seed), ()
    return sources.fit(sources.load(data) if isinstance(data, str) else data, model.inputs)


def split_data(data: str | Dataset | None, model: Model, calibration: int | None, seed: int) -> Split:
    """Load or generate data and split it. Raises `DatasetError` where nothing would be left to decide with."""
    generated = N_GENERATED_DECISION + (calibration or N_GENERATED_CALIBRATION)
    dataset, notes = data_for(data, model, generated, seed)
    n_items = dataset.n_items
    if data is None:
        n_calibration = calibration or N_GENERATED_CALIBRATION
    else:
        n_calibration = calibration or min(N_CALIBRATION, max(1, n_items // 5))
    if n_calibration >= n_items:
        raise DatasetError(
            f"{dataset.name}: {n_items} items, and {n_calibration} to calibrate leave none to decide with; "
            "give more data or a smaller --calibration"
        )
    return Split(*dataset.split(n_calibration, seed), notes)


def default_metric(dataset: Dataset) -> str:
    """Choose the metric from the labels: classes, real numbers, or none."""
    if not dataset.labelled:
        return "cosine"
    labels = next(dataset.open()).labels
    assert labels is not None
    return "mse" if np.asarray(labels).dtype.kind == "f" and not _one_hot(labels) else "accuracy"


def _one_hot(labels: np.ndarray) -> bool:
    return labels.ndim == 2 and bool(np.isin(labels, (0, 1)).all()) and bool((labels.sum(axis=1) == 1).all())


def _compare(source: Source, path: Path, progress: Progress) -> Agreement:
    graph = formats.read(formats.recognise(str(path)))
    data = generate(graph, N_PARITY, seed=0)
    with source.open() as original, engines.open_session(path, Target()) as converted:
        return parity.compare(original, converted, data, progress=progress)
