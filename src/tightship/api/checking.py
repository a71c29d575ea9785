"""`check`: do two models compute the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tightship.api import loading
from tightship.core.dataset import Dataset
from tightship.core.measurement import Agreement
from tightship.core.progress import SILENT, Progress
from tightship.core.target import Target
from tightship.measure import parity
from tightship.measure.locate import Difference, first_difference
from tightship.search import Source

__all__ = ["Verdict", "check"]

N_GENERATED = 16


@dataclass(frozen=True)
class Verdict:
    """Whether two models agree, and the first operator that differs where both are graphs and they do not."""

    first: str
    second: str
    data: str
    agreement: Agreement
    difference: Difference | None = None


def check(
    first: str | Path,
    second: str | Path,
    data: str | Dataset | None = None,
    weights: tuple[Path | None, Path | None] = (None, None),
    rtol: float = 1e-3,
    atol: float = 1e-5,
    progress: Progress = SILENT,
) -> Verdict:
    """Run two models on the same inputs (generated where `data` is None) and compare every output.

    `rtol` is relative to how much an output varies from input to input; an output that varies by less than `atol` (in
    its own units) is judged as if it varied by that much.
    Raises `DatasetMismatch` where the data fits only one of them.
    """
    one, other = loading.read(str(first), weights[0]), loading.read(str(second), weights[1])
    dataset, _ = loading.data_for(data, one.model, N_GENERATED, seed=0)
    with one.open() as session, other.open() as candidate:
        agreement = parity.compare(session, candidate, dataset, rtol=rtol, atol=atol, progress=progress)
    difference = None if agreement.agrees else _locate(one, other, dataset, rtol)
    return Verdict(str(first), str(second), dataset.name, agreement, difference)


def _locate(one: Source, other: Source, dataset: Dataset, rtol: float) -> Difference | None:
    if one.model.form != "graph" or other.model.form != "graph":
        return None
    return first_difference(one.model, other.model, Target(), Target(), dataset, rtol=rtol)
