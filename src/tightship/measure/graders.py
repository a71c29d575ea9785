"""How each metric gathers its scores batch by batch. A grader keeps a few numbers per item, never whole outputs
(except for a user's metric of the whole set)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from tightship.core.session import Arrays
from tightship.errors import DatasetMismatch, UsageError
from tightship.measure import outputs as choose
from tightship.measure.scores import WORST, Column, Scores, bounded

__all__ = ["Accuracy", "Cosine", "Error", "Grader", "KullbackLeibler", "MacroF1", "UserMetric", "macro_f1"]

PROBABILITY_SLACK = 1e-2
"""Rounding of quantized outputs that are still taken for probabilities."""

LEAST_PROBABILITY = 1e-7
"""Probabilities below count as this (the step of float32 at 1), so that one rounded to zero costs 16 nats at most."""


class Grader(ABC):
    """Takes the outputs of batches, each [items, ...], and gives the scores of all."""

    @abstractmethod
    def add(self, outputs: Arrays, labels: np.ndarray | None, reference: Arrays | None) -> None:
        """Take one batch. `labels` and `reference` (the source's outputs) are there where the metric needs them."""

    @abstractmethod
    def scores(self) -> Scores:
        """Return the scores of all items taken so far (at least one)."""


class _Classes(Grader):
    """Gathers predicted and true classes. One float per item: above 1/2 where all are probabilities, else above 0."""

    metric: str

    def __init__(self) -> None:
        self._found: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._bad: list[np.ndarray] = []

    def add(self, outputs: Arrays, labels: np.ndarray | None, reference: Arrays | None) -> None:
        assert labels is not None
        name, found = choose.class_scores(outputs)
        n_classes = found.shape[1] if found.ndim == 2 else (2 if choose.is_float(found) else None)
        self._labels.append(choose.class_labels(labels, n_classes, name))
        self._bad.append(np.isnan(choose.flat(found)).any(axis=1))
        self._found.append(found.argmax(axis=1) if found.ndim == 2 else found)

    def gathered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicted classes (-1 where the output is NaN), labels, and where the output is NaN; each [items]."""
        found, bad = np.concatenate(self._found), np.concatenate(self._bad)
        if choose.is_float(found):
            values = found[~bad].astype(np.float64)
            probabilities = ((values >= -PROBABILITY_SLACK) & (values <= 1 + PROBABILITY_SLACK)).all()
            with np.errstate(invalid="ignore"):
                found = found.astype(np.float64) > (0.5 if probabilities else 0.0)
        return np.where(bad, -1, found.astype(np.int64)), np.concatenate(self._labels), bad


class Accuracy(_Classes):
    """1 for an item whose class is right, else 0."""

    def scores(self) -> Scores:
        found, labels, bad = self.gathered()
        right = Column.of((found == labels).astype(np.float64))
        return Scores("accuracy", "right", len(labels), right, n_not_finite=int(bad.sum()))


class MacroF1(_Classes):
    """Keeps predicted and true classes; the score is of the whole set."""

    def scores(self) -> Scores:
        found, labels, bad = self.gathered()
        return Scores(
            "f1",
            "whole",
            len(labels),
            Column.of(np.zeros(0)),
            n_not_finite=int(bad.sum()),
            outputs={"class": Column.of(found)},
            labels=Column.of(labels),
        )


def macro_f1(outputs: Arrays, labels: np.ndarray) -> float:
    """Mean F1 over the classes that occur in `labels` [items]; `outputs["class"]` holds those predicted [items]."""
    found = outputs["class"]
    classes, labels = np.unique(labels, return_inverse=True)
    place = np.searchsorted(classes, found).clip(0, len(classes) - 1)
    known = classes[place] == found
    n_true = np.bincount(labels, minlength=len(classes))
    n_found = np.bincount(place[known], minlength=len(classes))
    n_right = np.bincount(labels[known & (place == labels)], minlength=len(classes))
    return float((2 * n_right / (n_true + n_found)).mean())


class Error(Grader):
    """1 - squared error / variance, the variance of each element over items averaged over elements.

    With labels the mean over items is R^2 (weighted by variance, as scikit-learn calls it). Without, each output is
    measured against the variance of the source's own, and an item's score is that of its worst output.
    """

    def __init__(self, labelled: bool) -> None:
        self._labelled = labelled
        self._errors: list[np.ndarray] = []
        self._spreads: dict[str, _Spread] = {}

    def add(self, outputs: Arrays, labels: np.ndarray | None, reference: Arrays | None) -> None:
        if self._labelled:
            assert labels is not None
            found = choose.values_like(outputs, labels)
            pairs = {"labels": (choose.finite_labels(labels), found)}
        else:
            assert reference is not None
            pairs = {name: _pair(name, reference, outputs) for name in choose.compared(reference)}
        columns = []
        for name, (wanted, found) in pairs.items():
            self._spreads.setdefault(name, _Spread(name)).add(wanted)
            wanted, found = choose.same_numbers(wanted, found)
            with np.errstate(invalid="ignore", over="ignore"):
                columns.append(np.square(found - wanted).mean(axis=1))
        self._errors.append(np.stack(columns, axis=1))

    def scores(self) -> Scores:
        errors = np.concatenate(self._errors)
        variances = np.array([spread.variance for spread in self._spreads.values()])
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(errors == 0, 0.0, errors / variances)
        worst = np.where(np.isfinite(shares), 1 - shares, WORST).min(axis=1)
        n_bad = int((~np.isfinite(errors)).any(axis=1).sum())
        return Scores("mse", "real", len(worst), Column.of(bounded(worst)), not self._labelled, n_bad)


class _Spread:
    """Variance of each element over items, averaged; batches are merged as Chan, Golub and LeVeque (1979) do."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._n_items = 0
        self._mean = self._squares = np.zeros(0)

    def add(self, rows: np.ndarray) -> None:
        """Take [items, elements]; elements that are not finite count as zero."""
        rows = np.where(np.isfinite(rows), rows, 0.0)
        mean = rows.mean(axis=0)
        squares = np.square(rows - mean).sum(axis=0)
        if not self._n_items:
            self._mean, self._squares = np.zeros_like(mean), np.zeros_like(mean)
        if mean.shape != self._mean.shape:
            raise DatasetMismatch(
                f"{self._name}: {self._mean.size} elements in one item and {mean.size} in another; mse needs the same "
                "shape in every item; use cosine"
            )
        total = self._n_items + len(rows)
        gap = mean - self._mean
        self._squares = self._squares + squares + np.square(gap) * (self._n_items * len(rows) / total)
        self._mean = self._mean + gap * (len(rows) / total)
        self._n_items = total

    @property
    def variance(self) -> float:
        return float(self._squares.mean()) / self._n_items if self._squares.size else 0.0


class Cosine(Grader):
    """Cosine similarity of an item's outputs to the source's, each output flattened; the worst output counts.

    Two outputs of zeros are alike (1), one of zeros is at a right angle to any other (0); NaN gives -1.
    """

    def __init__(self) -> None:
        self._items: list[np.ndarray] = []
        self._n_bad = 0

    def add(self, outputs: Arrays, labels: np.ndarray | None, reference: Arrays | None) -> None:
        assert reference is not None
        columns = [_cosine(*_pair(name, reference, outputs)) for name in choose.compared(reference)]
        worst = np.stack(columns, axis=1).min(axis=1)
        self._n_bad += int(np.isnan(worst).sum())
        self._items.append(np.where(np.isnan(worst), -1.0, worst))

    def scores(self) -> Scores:
        items = np.concatenate(self._items)
        return Scores("cosine", "real", len(items), Column.of(items), True, self._n_bad)


class KullbackLeibler(Grader):
    """Minus the Kullback-Leibler divergence of the candidate's distribution from the source's, in nats.

    Of the first float output with two or more classes on its last axis, averaged over the positions of an item.
    Rows that the source gives as probabilities (none below 0, sum 1) are taken as they are, others through softmax.
    """

    def __init__(self) -> None:
        self._items: list[np.ndarray] = []
        self._probabilities: bool | None = None
        self._n_bad = 0

    def add(self, outputs: Arrays, labels: np.ndarray | None, reference: Arrays | None) -> None:
        assert reference is not None
        name = _distribution(reference)
        n_classes = reference[name].shape[-1]
        wanted, found = (rows.reshape(len(rows), -1, n_classes) for rows in _pair(name, reference, outputs))
        if self._probabilities is None:
            self._probabilities = bool((wanted >= 0).all() and np.allclose(wanted.sum(axis=-1), 1, atol=1e-3))
        p, q = (_log_probabilities(rows, self._probabilities) for rows in (wanted, found))
        with np.errstate(invalid="ignore"):
            weights = wanted if self._probabilities else np.exp(p)
            items = -np.where(weights == 0, 0.0, weights * (p - q)).sum(axis=-1).mean(axis=-1)
        self._n_bad += int((~np.isfinite(items)).sum())
        self._items.append(items)

    def scores(self) -> Scores:
        items = bounded(np.concatenate(self._items))
        return Scores("kl", "real", len(items), Column.of(items), True, self._n_bad)


class UserMetric(Grader):
    """`function(outputs, labels)` of the user: one score per item [items], or one number for all; higher is better.

    The first batch tells which. For one number all outputs are kept until the end. Scores that are NaN count as worst.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        self._items: list[np.ndarray] | None = []
        self._outputs: list[Arrays] = []
        self._labels: list[np.ndarray | None] = []

    def add(self, outputs: Arrays, labels: np.ndarray | None, reference: Arrays | None) -> None:
        if self._items is not None:
            found = call(self._name, self._function, outputs, labels)
            if found.ndim == 0 and not self._items:
                self._items = None
            elif found.shape == (len(next(iter(outputs.values()))),):
                self._items.append(found)
            else:
                n_items = len(next(iter(outputs.values())))
                raise UsageError(
                    f"metric {self._name}: expected one score per item [{n_items}] or one number for all, "
                    f"found an array of shape {list(found.shape)}"
                )
        if self._items is None:
            self._outputs.append(outputs)
            self._labels.append(labels)

    def scores(self) -> Scores:
        if self._items is not None:
            items = np.concatenate(self._items)
            n_bad = int((~np.isfinite(items)).sum())
            return Scores(self._name, "real", len(items), Column.of(bounded(items)), n_not_finite=n_bad)
        whole = self._joined()
        n_items = len(next(iter(whole.values())))
        bad = np.zeros(n_items, dtype=bool)
        for array in whole.values():
            if choose.is_float(array):
                bad |= np.isnan(choose.flat(array)).any(axis=1)
        labels = [batch for batch in self._labels if batch is not None]
        return Scores(
            self._name,
            "whole",
            n_items,
            Column.of(np.zeros(0)),
            n_not_finite=int(bad.sum()),
            outputs={name: Column.of(array) for name, array in whole.items()},
            labels=Column.of(np.concatenate(labels)) if labels else None,
        )

    def _joined(self) -> Arrays:
        try:
            return {name: np.concatenate([batch[name] for batch in self._outputs]) for name in self._outputs[0]}
        except ValueError as error:
            raise UsageError(
                f"metric {self._name} gives one number for all, but the outputs change their shape from item to item: "
                f"{error}; let it return one score per item"
            ) from error


def call(name: str, function: Callable[..., Any], outputs: Arrays, labels: np.ndarray | None) -> np.ndarray:
    """Call a user's metric. Raises `UsageError` where it fails or returns what is no number."""
    try:
        return np.asarray(function(outputs, labels)).astype(np.float64)
    except Exception as error:  # the user's function may raise anything
        raise UsageError(f"metric {name} failed: {type(error).__name__}: {error}") from error


def _pair(name: str, reference: Arrays, outputs: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return one output of source and candidate as [items, elements]; one of another shape is taken as NaN."""
    wanted = choose.flat(reference[name])
    if name not in outputs or outputs[name].shape != reference[name].shape:
        return wanted, np.full_like(wanted, np.nan)
    return wanted, choose.flat(outputs[name])


def _cosine(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    wanted, found = choose.same_numbers(wanted, found)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        lengths = np.linalg.norm(wanted, axis=1), np.linalg.norm(found, axis=1)
        product = lengths[0] * lengths[1]
        cosine = (wanted * found).sum(axis=1) / product
        alike = (lengths[0] == lengths[1]).astype(np.float64)
        return np.asarray(np.where(product == 0, alike, np.clip(cosine, -1, 1)))


def _distribution(reference: Arrays) -> str:
    for name, array in reference.items():
        if choose.is_float(array) and array.ndim >= 2 and array.shape[-1] >= 2:
            return name
    raise DatasetMismatch("kl needs a float output with two or more classes on its last axis, and there is none")


def _log_probabilities(rows: np.ndarray, probabilities: bool) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        if probabilities:
            return np.asarray(np.log(np.maximum(rows, LEAST_PROBABILITY)))
        rows = rows - rows.max(axis=-1, keepdims=True)
        return np.asarray(rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True)))
