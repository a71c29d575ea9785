"""`check`: do two models compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tightship.api import loading, locating
from tightship.api.locating import Location
from tightship.core.dataset import Dataset
from tightship.core.measurement import Agreement
from tightship.core.progress import SILENT, Progress
from tightship.measure import parity
from tightship.package.opening import NO_KEYS, Keys
from tightship.search import Source

__all__ = ["Verdict", "check"]

N_GENERATED = 16


@dataclass(frozen=True)
class Verdict:
    """Whether two models agree, and the first operator that differs where they do not and it could be found.

    `where.not_located` says why it could not; `where.reproduction` is the folder that shows the difference by itself.
    """

    first: str
    second: str
    data: str
    agreement: Agreement
    where: Location | None = None


def check(
    first: str | Path,
    second: str | Path,
    data: str | Dataset | None = None,
    weights: tuple[Path | None, Path | None] = (None, None),
    rtol: float = 1e-3,
    atol: float = 1e-5,
    locate: Path | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = SILENT,
    keys: Keys = NO_KEYS,
    device: bool = False,
) -> Verdict:
    """Run two models on the same inputs (generated where `data` is None) and compare every output.

    `rtol` is relative to how much an output varies from input to input; an output that varies by less than `atol` (in
    its own units) is judged as if it varied by that much. Where they differ, `locate` names a folder for a
    reproduction of the first difference by itself. Models of other formats are compared operator by operator as the
    graphs that they convert to, each proven to compute what its model does.
    `device` runs Core ML files in Core ML itself, which is on macOS alone, and not as the graphs that they are read
    into. Raises `DatasetMismatch` where the data fits only one of them.
    """
    one = loading.read(str(first), weights[0], shapes, keys=keys)
    other = loading.read(str(second), weights[1], shapes, keys=keys)
    dataset, _ = loading.data_for(data, loading.drawable(one.model, progress), N_GENERATED, seed=0)
    if device:
        one, other = (Source.of(source.artifact, source.model, device=True) for source in (one, other))
    with one.open() as session, other.open() as candidate:
        agreement = parity.compare(session, candidate, dataset, rtol=rtol, atol=atol, progress=progress)
    found = Verdict(str(first), str(second), dataset.name, agreement)
    if agreement.agrees:
        return found
    where = locating.locate(one, other, dataset, rtol=rtol, atol=atol, folder=locate, progress=progress)
    return replace(found, where=where)
