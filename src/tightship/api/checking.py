"""`check`: do two models compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tightship import bridges, engines
from tightship.api import loading
from tightship.core.dataset import Dataset
from tightship.core.measurement import Agreement
from tightship.core.model import Model
from tightship.core.progress import SILENT, Progress
from tightship.core.target import Target
from tightship.errors import ParityError, TightshipError
from tightship.measure import parity
from tightship.measure.locate import Difference, first_difference
from tightship.measure.reproduce import reproduce
from tightship.search import Source

__all__ = ["Verdict", "check"]

N_GENERATED = 16


@dataclass(frozen=True)
class Verdict:
    """Whether two models agree, and the first operator that differs where they do not and it could be found.

    `not_located` says why it could not; `reproduction` is the folder that shows the difference by itself.
    """

    first: str
    second: str
    data: str
    agreement: Agreement
    difference: Difference | None = None
    not_located: str = ""
    reproduction: Path | None = None


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
) -> Verdict:
    """Run two models on the same inputs (generated where `data` is None) and compare every output.

    `rtol` is relative to how much an output varies from input to input; an output that varies by less than `atol` (in
    its own units) is judged as if it varied by that much. Where they differ, `locate` names a folder for a
    reproduction of the first difference by itself. Models of other formats are compared operator by operator as the
    graphs that they convert to, each proven to compute what its model does.
    Raises `DatasetMismatch` where the data fits only one of them.
    """
    one, other = loading.read(str(first), weights[0], shapes), loading.read(str(second), weights[1], shapes)
    dataset, _ = loading.data_for(data, loading.drawable(one.model, progress), N_GENERATED, seed=0)
    with one.open() as session, other.open() as candidate:
        agreement = parity.compare(session, candidate, dataset, rtol=rtol, atol=atol, progress=progress)
    found = Verdict(str(first), str(second), dataset.name, agreement)
    if agreement.agrees:
        return found
    try:
        return _located(found, one, other, dataset, (rtol, atol), locate, progress)
    except TightshipError as error:
        return replace(found, not_located=str(error))


def _located(
    found: Verdict,
    one: Source,
    other: Source,
    dataset: Dataset,
    tolerance: tuple[float, float],
    folder: Path | None,
    progress: Progress,
) -> Verdict:
    rtol, atol = tolerance
    first, second = (_graph(source, dataset, tolerance, progress) for source in (one, other))
    targets = (_target(one), _target(other))
    difference = first_difference(first, second, *targets, dataset, rtol=rtol, atol=atol, progress=progress)
    if difference is None:
        return replace(found, not_located="no single operator differs; small differences add up")
    reproduction = None if folder is None else reproduce(first, second, difference, targets, dataset, folder)
    return replace(found, difference=difference, reproduction=reproduction)


def _graph(source: Source, dataset: Dataset, tolerance: tuple[float, float], progress: Progress) -> Model:
    """The graph of a model, proven to be its graph: a fault of the conversion must not be taken for one of the model.

    Raises `ParityError` where it is not.
    """
    if source.artifact.format == "onnx":
        return source.model
    converted = bridges.route(source.model, "graph", progress)
    rtol, atol = tolerance
    with source.open() as original, engines.open_session(converted, Target()) as session:
        agreement = parity.compare(original, session, dataset, rtol=rtol, atol=atol, max_items=4, progress=progress)
    if not agreement.agrees:
        raise ParityError(
            f"{source.artifact.path}: operators cannot be compared, since its graph differs from it: {agreement.cause}"
        )
    return converted


def _target(source: Source) -> Target:
    return source.target if source.target.engine in ("onnxruntime", "openvino") else Target()
