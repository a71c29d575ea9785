"""Quality of a model on a dataset, and whether a candidate's is good enough: tested item by item against its source.

scores -> quality (one model, with its interval)
scores + scores -> test_drop, test_family (is the drop within what is allowed?)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.feeds import Feed, feeds
from tightship.core.measurement import DropTest, Quality
from tightship.core.progress import SILENT, Progress
from tightship.core.session import Arrays, Session
from tightship.errors import DatasetError, DatasetMismatch, UsageError
from tightship.measure import statistics
from tightship.measure.drop import Differences, Discordance, DropEvidence, Replicates
from tightship.measure.metrics import Metric, metric_named
from tightship.measure.scores import Scores, bounded

__all__ = ["Scores", "evidence", "quality", "scores", "test_drop", "test_family"]

N_RESAMPLES = 999

N_SWAPS = 2.0
"""Mean number of items per resample that are given another item's output (see `_replicates`)."""


def scores(
    session: Session,
    dataset: Dataset,
    metric: Metric,
    reference: Session | None = None,
    batch: int = 1,
    progress: Progress = SILENT,
) -> Scores:
    """Run every item of `dataset` through `session` and score it.

    `reference` is the source, needed where the metric compares with its outputs; None or the session itself scores the
    source. `batch` is the number of items per run where the model takes any: one by default, since what a dynamically
    quantized model computes depends on what else is in the batch. One batch is in memory at a time.
    Raises `DatasetMismatch` where labels are missing or do not fit, and `EngineError`.
    """
    grader = None
    with progress.step(f"{metric.name} on {dataset.name}", dataset.n_items) as advance:
        for feed in feeds(dataset, session.inputs, batch):
            if feed.labels is None and metric.needs == "labels":
                raise DatasetMismatch(
                    f"metric {metric.name} needs labels, and {dataset.name} has none; add an array `labels`, or use "
                    "cosine or kl, which compare with the source model"
                )
            grader = grader or metric.start(feed.labels is not None)
            outputs = _outputs(session, feed)
            if not metric.uses_source(feed.labels is not None):
                grader.add(outputs, feed.labels, None)
            elif reference is None or reference is session:
                grader.add(outputs, feed.labels, outputs)
            else:
                wanted = _outputs(reference, feed)
                grader.add(_named_as(wanted, outputs), feed.labels, wanted)
            advance(feed.n_items)
    if grader is None:
        raise DatasetError(f"{dataset.name}: there are no items in it")
    return grader.scores()


def quality(scores: Scores, confidence: float = 0.95, seed: int = 0) -> Quality:
    """Value and two-sided interval: Wilson's where items are right or wrong, Hall's corrected t for real scores, the
    percentile bootstrap for metrics of the whole set."""
    tail = (1 - confidence) / 2
    if scores.kind == "whole":
        function = _whole(scores)
        value = function(np.arange(scores.n_items), np.arange(scores.n_items))
        rng = np.random.default_rng(seed)
        drawn = [function(index, index) for index in _resamples(rng, scores.n_items)]
        low, high = (float(bound) for bound in np.quantile(drawn, [tail, 1 - tail]))
    else:
        value = float(scores.values.mean())
        if scores.kind == "right":
            low, high = statistics.wilson_interval(int(scores.values.sum()), scores.n_items, confidence)
        else:
            low, high = (statistics.mean_bound(scores.values, bound) for bound in (1 - tail, tail))
    return Quality(scores.metric, value, min(low, value), max(high, value), scores.n_items, confidence)


def test_drop(
    source: Scores, candidate: Scores, allowed: float, confidence: float = 0.95, n_tests: int = 1, seed: int = 0
) -> DropTest:
    """Test that the candidate's quality is lower than the source's by at most `allowed`.

    With `n_tests` the confidence is that none of so many tests accepts wrongly (Bonferroni).
    Raises `UsageError` where the scores are of different metrics, `DatasetMismatch` where of different items.
    """
    return evidence(source, candidate, allowed, seed).test((1 - confidence) / n_tests)


def test_family(
    source: Scores,
    candidates: Sequence[Scores],
    allowed: float,
    confidence: float = 0.95,
    n_family: int | None = None,
    seed: int = 0,
) -> tuple[DropTest, ...]:
    """Test candidates so that with `confidence` none of them is accepted wrongly (Holm 1979).

    `n_family` is the number of tests planned before any result was seen (default: the candidates given). Each bound is
    at the level that its test was done at, so that it lies within `allowed` exactly where the test accepts.
    """
    found = [evidence(source, candidate, allowed, seed) for candidate in candidates]
    p_values = [entry.p_value for entry in found]
    levels = statistics.holm_levels(p_values, len(found) if n_family is None else n_family, 1 - confidence)
    return tuple(entry.test(level) for entry, level in zip(found, levels, strict=True))


def evidence(source: Scores, candidate: Scores, allowed: float, seed: int = 0) -> DropEvidence:
    """Weigh the paired scores of two models; see the three kinds of `DropEvidence`."""
    _check_pair(source, candidate)
    if source.kind == "whole":
        return _replicates(source, candidate, allowed, seed)
    before, after = source.values, candidate.values
    if not source.fidelity and np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        n_lost, n_gained = int((before > after).sum()), int((before < after).sum())
        return Discordance(source.n_items, allowed, n_lost, n_gained)
    differences = before - after
    return Differences(source.n_items, allowed, differences, max(float(differences.max()), _swing(source, candidate)))


def _swing(source: Scores, candidate: Scores) -> float:
    """How far one item not seen could fall: the range of the scores, where they are levels and not a continuum.

    Of levels (0, 1/2, 1) most items keep theirs, and a sample in which none fell does not show that none will. Scores
    of the source that compare it with itself are all the same and say nothing of the range.
    """
    before = source.values
    if source.fidelity or len(np.unique(before)) > len(before) / 2:
        return -np.inf
    return float(max(before.max(), candidate.values.max()) - min(before.min(), candidate.values.min()))


def _replicates(source: Scores, candidate: Scores, allowed: float, seed: int) -> Replicates:
    """Resample items in pairs. In each resample about two items get the candidate's output for another item.

    Without that a candidate that differed on no item seen would show no drop in any resample, however few the items
    (the bootstrap's form of Wald's error); two random outputs are about one wrong item, as in the rule of three.
    """
    before, after = _whole(source), _whole(candidate)
    n_items, rng = source.n_items, np.random.default_rng(seed)
    every = np.arange(n_items)
    drops = []
    for index in _resamples(rng, n_items):
        taken = index.copy()
        n_swaps = min(int(rng.poisson(N_SWAPS)), n_items)
        taken[rng.integers(0, n_items, n_swaps)] = rng.integers(0, n_items, n_swaps)
        drops.append(before(index, index) - after(taken, index))
    return Replicates(n_items, allowed, before(every, every) - after(every, every), np.array(drops))


def _resamples(rng: np.random.Generator, n_items: int) -> Iterator[np.ndarray]:
    return (rng.integers(0, n_items, n_items) for _ in range(N_RESAMPLES))


def _whole(scores: Scores) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the metric of the whole set as a function of the items whose outputs, and whose labels, are taken."""
    function = metric_named(scores.metric).whole
    if function is None:
        raise UsageError(f"metric {scores.metric} scores single items, found scores of the whole set")
    outputs = {name: column.array for name, column in scores.outputs.items()}
    labels = None if scores.labels is None else scores.labels.array

    def value(items: np.ndarray, labelled: np.ndarray) -> float:
        taken = {name: array[items] for name, array in outputs.items()}
        found = np.asarray(function(taken, None if labels is None else labels[labelled]), dtype=np.float64)
        return float(bounded(found))

    return value


def _check_pair(source: Scores, candidate: Scores) -> None:
    if (source.metric, source.kind) != (candidate.metric, candidate.kind):
        raise UsageError(
            f"scores of {candidate.metric} ({candidate.kind}) cannot be compared with scores of {source.metric} "
            f"({source.kind}); score both models with the same metric"
        )
    if source.n_items != candidate.n_items or source.labels != candidate.labels:
        raise DatasetMismatch(
            f"paired scores must be of the same items: the source has {source.n_items}, the candidate "
            f"{candidate.n_items}{'' if source.n_items != candidate.n_items else ' with other labels'}"
        )


def _outputs(session: Session, feed: Feed) -> Arrays:
    """Run one feed and return outputs [items, ...]; what one item gives is its own, whatever its first axis is."""
    outputs = session.run(feed.arrays)
    n_fed = len(next(iter(feed.arrays.values())))
    if n_fed == 1:
        return {name: array if array.shape[:1] == (1,) else array[np.newaxis] for name, array in outputs.items()}
    for name, array in outputs.items():
        if array.shape[:1] != (n_fed,):
            raise DatasetMismatch(
                f"output {name!r} has shape {list(array.shape)} for {n_fed} items; expected the items along axis 0, "
                "so that each can be scored; use a batch of one item"
            )
    return feed.unpad(outputs)


def _named_as(reference: Arrays, outputs: Arrays) -> Arrays:
    # Engines may call an output by another of its names; then the order tells which is which.
    if set(reference) <= set(outputs) or len(reference) != len(outputs):
        return outputs
    return dict(zip(reference, outputs.values(), strict=True))
