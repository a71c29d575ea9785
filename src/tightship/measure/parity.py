"""Do two sessions compute the same? Every output, several inputs, a tolerance that the outputs' own variation sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.feeds import Feed, feeds
from tightship.core.measurement import Agreement
from tightship.core.progress import SILENT, Progress
from tightship.core.session import Arrays, Session
from tightship.core.specs import TensorSpec
from tightship.errors import DatasetMismatch, EngineError
from tightship.measure.tally import MAX_ERROR, MAX_SQNR_DB, Judgement, Tally, rounding_unit

__all__ = ["PairedRun", "compare", "pair", "paired_runs", "perturbed"]

_BATCH = 3
"""Items per run where any number is taken: more than one, so that a batch that was baked in shows."""

_N_NOISE_ITEMS = 8


def compare(
    first: Session,
    second: Session,
    dataset: Dataset,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    max_items: int = 64,
    flipped_fraction: float = 0.0,
    steps: int = 0,
    unit: float = 0.0,
    moved: Session | None = None,
    progress: Progress = SILENT,
) -> Agreement:
    """Run both sessions on up to `max_items` items and compare every output; `first` is the reference.

    A float output may differ by `rtol` of its standard deviation over items (one that varies by less than `atol`, in
    its own units, counts as varying by that), plus what rounding explains: eight roundings of its largest value, and
    four times what one rounding of the inputs moves it (of the weights, where `moved` is given: the first with weights
    moved so, since indices and texts cannot be). NaN, other shapes and other types never agree; infinities must be in
    the same places. Integers, booleans and texts agree exactly but for `flipped_fraction` of their elements;
    those of 8 bits agree when they are within `steps` of each other. `unit` is the relative rounding error of numbers
    in the candidate, where that is larger than float32's.
    Outputs and inputs are paired by name, those left over by position. Where no output varies over the items, equality
    shows nothing and the answer is no; one that does not vary beside others that do is told in `cause`.
    Raises `DatasetMismatch` where the data does not fit `first`, `EngineError` where `first` fails; where only
    `second` does, they disagree.
    """
    problem = _different_interface(first, second)
    if problem:
        return _disagreement(problem)
    outputs = pair([spec.name for spec in first.outputs], [spec.name for spec in second.outputs])
    tallies = {name: Tally(steps=steps, unit=unit) for name in outputs}
    n_items = 0
    with progress.step("comparing outputs", max_items) as advance:
        for run in paired_runs(first, second, dataset, max_items, moved):
            if run.failure:
                return _disagreement(run.failure)
            for name, other in outputs.items():
                run.tell(tallies[name], name, other)
            n_items += run.n_items
            advance(run.n_items)
    return _agreement({name: tally.judge(rtol, atol, flipped_fraction) for name, tally in tallies.items()}, n_items)


@dataclass(frozen=True)
class PairedRun:
    """Outputs of two sessions on the same items, those of the first on inputs moved by a rounding (or none of it).

    `failure` says why the second gave none.
    """

    n_items: int
    reference: Arrays
    candidate: Arrays
    moved: Arrays
    failure: str = ""

    def tell(self, tally: Tally, name: str, other: str) -> None:
        """Add output `name` of the first and `other` of the second session to a tally."""
        tally.add(self.reference[name], self.candidate[other], self.n_items)
        if name in self.moved:
            tally.add_noise(self.reference[name], self.moved[name])


def paired_runs(
    first: Session, second: Session, dataset: Dataset, max_items: int, moved: Session | None = None
) -> Iterator[PairedRun]:
    """Run both sessions on the same batches, until `max_items` items have been run."""
    n_items = 0
    for feed in _feeds(first, second, dataset, max_items):
        reference = feed.unpad(first.run(feed.arrays))
        try:
            candidate = feed.unpad(second.run(_renamed(feed.arrays, first.inputs, second.inputs)))
        except EngineError as error:
            failure = f"the second model fails on {feed.n_items} items that the first takes: {error}"
            yield PairedRun(feed.n_items, reference, {}, {}, failure)
            return
        noisy: Arrays = {}
        if n_items < _N_NOISE_ITEMS:
            noisy = feed.unpad(moved.run(feed.arrays) if moved else first.run(perturbed(feed.arrays)))
        yield PairedRun(feed.n_items, reference, candidate, noisy)
        n_items += feed.n_items


def perturbed(arrays: Mapping[str, np.ndarray], seed: int = 0) -> Arrays:
    """Return the arrays with every float moved up or down by two roundings of its type (2^-22 of a float32)."""
    random = np.random.default_rng(seed)
    moved = {}
    for name, array in arrays.items():
        if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
            step = 2 * rounding_unit(array.dtype)
            signs = random.integers(0, 2, array.shape) * 2 - 1
            moved[name] = (array.astype(np.float64) * (1 + step * signs)).astype(array.dtype)
        else:
            moved[name] = array
    return moved


def _agreement(judged: Mapping[str, Judgement], n_items: int) -> Agreement:
    worst = max(judged, key=lambda name: (judged[name].error, -judged[name].sqnr_db))
    found = judged[worst]
    constant = [name for name, judgement in judged.items() if not judgement.varies]
    cause = f"output {worst!r}: {found.cause}" if found.cause else ""
    if not cause and constant:
        cause = f"output {', '.join(constant)} does not vary over these {n_items} items, so variation cannot judge it"
    agrees = not found.cause and len(constant) < len(judged)
    if not found.cause and not agrees:
        cause = f"{cause}, and equality shows nothing; give data on which it varies"
    return Agreement(agrees, found.error, found.max_abs, found.sqnr_db, worst, n_items, cause)


def _disagreement(cause: str) -> Agreement:
    return Agreement(False, MAX_ERROR, 0.0, -MAX_SQNR_DB, "", 0, cause)


def _different_interface(first: Session, second: Session) -> str:
    for what, mine, others in (("input", first.inputs, second.inputs), ("output", first.outputs, second.outputs)):
        if len(mine) != len(others):
            return f"{len(others)} {what}s ({_names(others)}), expected {len(mine)} ({_names(mine)})"
    by_name = {spec.name: spec for spec in second.inputs}
    for name, other in pair([spec.name for spec in first.inputs], list(by_name)).items():
        ours, theirs = next(spec for spec in first.inputs if spec.name == name), by_name[other]
        if "unknown" not in (ours.dtype, theirs.dtype) and ours.dtype != theirs.dtype:
            return f"input {other!r} takes {theirs.dtype}, expected {ours.dtype}"
        if ours.shape and theirs.shape and _merged(ours, theirs) is None:
            return f"input {other!r} takes shape {list(theirs.shape)}, expected {list(ours.shape)}"
    return ""


def pair(names: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Pair equal names, and the names that are left by position; all by position where one side's are but numbers.

    Files that know positions only (ExecuTorch's) call their inputs input_0, input_1, ..., as another may call one.
    """
    if set(names) != set(others) and (_are_positions(names) or _are_positions(others)):
        return dict(zip(names, others, strict=True))
    left = iter([other for other in others if other not in names])
    return {name: name if name in others else next(left) for name in names}


def _are_positions(names: Sequence[str]) -> bool:
    return any(list(names) == [f"{kind}_{index}" for index in range(len(names))] for kind in ("input", "output"))


def _merged(ours: TensorSpec, theirs: TensorSpec) -> TensorSpec | None:
    """The spec that both accept, or None where there is none."""
    if len(ours.shape) != len(theirs.shape):
        return None
    dims = []
    for our, their in zip(ours.shape, theirs.shape, strict=True):
        if isinstance(our, int) and isinstance(their, int) and our != their:
            return None
        dims.append(their if isinstance(their, int) else our)
    return replace(ours, shape=tuple(dims))


def _feeds(first: Session, second: Session, dataset: Dataset, max_items: int) -> Iterator[Feed]:
    """Batches that both sessions take, their arrays under the names of `first`."""
    by_name = {spec.name: spec for spec in second.inputs}
    pairs = pair([spec.name for spec in first.inputs], list(by_name))
    specs = [_merged(spec, by_name[pairs[spec.name]]) or spec for spec in first.inputs]
    data = _under_names(dataset, [spec.name for spec in specs])
    n_items = 0
    for feed in feeds(data, specs, _usable_batch(first, specs, data)):
        yield feed
        n_items += feed.n_items
        if n_items >= max_items:
            return


def _usable_batch(first: Session, specs: Sequence[TensorSpec], data: Dataset) -> int:
    # Some graphs say that they take any batch and were traced with one.
    try:
        first.run(next(feeds(data, specs, _BATCH)).arrays)
    except EngineError:
        return 1
    return _BATCH


def _under_names(dataset: Dataset, wanted: Sequence[str]) -> Dataset:
    batches = dataset.open()
    opening = next(batches, None)
    found = [] if opening is None else list(opening.inputs)
    if set(wanted) <= set(found):
        return dataset
    if len(found) != len(wanted):
        raise DatasetMismatch(
            f"{dataset.name}: expected arrays {', '.join(wanted)}, found {', '.join(found) or 'none'}"
        )
    names = {array: name for name, array in pair(wanted, found).items()}
    return dataset.mapped(
        lambda batch: replace(batch, inputs={names[name]: array for name, array in batch.inputs.items()})
    )


def _renamed(arrays: Arrays, ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec]) -> Arrays:
    pairs = pair([spec.name for spec in ours], [spec.name for spec in theirs])
    return {pairs[name]: array for name, array in arrays.items()}


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)
