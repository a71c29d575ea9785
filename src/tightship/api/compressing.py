"""`compress`: apply a recipe, nothing decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tightship import bridges, formats
from tightship.api import loading
from tightship.core.dataset import Dataset
from tightship.core.progress import SILENT, Progress
from tightship.core.recipe import Recipe

__all__ = ["Compressed", "compress"]

N_CALIBRATION = 100


@dataclass(frozen=True)
class Compressed:
    """What a recipe made: the file, its size and the source's, and what the passes had to say."""

    output: str
    size_bytes: int
    source_bytes: int
    changed: bool
    notes: tuple[str, ...]


def compress(
    model: str | Path,
    recipe: Recipe,
    output: Path | str,
    data: str | Dataset | None = None,
    weights: Path | None = None,
    calibration: int = N_CALIBRATION,
    seed: int = 0,
    work: Path | None = None,
    resume: bool = True,
    progress: Progress = SILENT,
) -> Compressed:
    """Apply each pass of `recipe` and write the model; nothing is measured or refused.

    At most `calibration` items, chosen at random, calibrate; they are generated where `data` is None. Long passes
    keep their finished steps in `work` (None: the user's cache folder) and go on from there, unless `resume` is False.
    """
    source = loading.read(str(model), weights)
    result = bridges.route(source.model, "graph", progress)
    dataset, notes = loading.data_for(data, result, calibration, seed)
    if dataset.n_items > calibration:
        dataset, _ = dataset.split(calibration, seed)
    changed, store = False, loading.store_at(work, resume)
    for entry in recipe.passes:
        with progress.step(entry.name):
            outcome = entry.apply(result, dataset, progress, store)
        result, changed, notes = outcome.model, changed or outcome.changed, (*notes, *outcome.notes)
    artifact = formats.write(result, Path(output))
    return Compressed(str(output), artifact.size_bytes, source.artifact.size_bytes, changed, notes)
