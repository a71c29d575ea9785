"""Differences between two arrays that should be the same, gathered batch by batch in memory of one item.

What is allowed follows from how much the reference varies from item to item, not from how large it is: a softmax that
is nearly constant makes every error look small beside its values. On top comes what rounding explains: of the numbers
themselves, and of the model, as far as it amplifies it.

    scale = max(variation, min(atol, largest))
    allowed = rtol * scale + 8 eps * largest + min(4 * noise, scale / 20)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MAX_ERROR", "MAX_SQNR_DB", "Judgement", "Tally", "is_float", "rounding_unit"]

MAX_ERROR = 1e9
"""Stands for an error beyond any tolerance: other shapes or types, NaN. Finite, so that it can be stored as JSON."""

MAX_SQNR_DB = 200.0
"""Stands for no noise at all."""

_ROUNDINGS = 8.0
_NOISE_MULTIPLE = 4.0
_LARGEST_NOISE_SHARE = 0.05


@dataclass(frozen=True)
class Judgement:
    """How two tensors differ: `error` is the largest difference over what is allowed, `varies` whether the reference
    differs between items at all; `cause` is empty where they agree."""

    error: float
    max_abs: float
    sqnr_db: float
    varies: bool
    cause: str = ""


class Tally:
    """Gathers one pair of tensors over batches. `any_float` lets the candidate be of another float type, `steps` values
    of 8 bits differ by so much; `unit` is the relative rounding error of what the candidate was written in."""

    def __init__(self, any_float: bool = False, steps: int = 0, unit: float = 0.0) -> None:
        self._any_float = any_float
        self._steps = steps
        self.problem = ""
        self.noise = 0.0
        self.max_abs = 0.0
        self._largest = 0.0
        self._n_items = 0
        self._n_elements = 0
        self._n_different = 0
        self._exact = False
        self._unit = max(unit, rounding_unit(np.dtype(np.float32)))
        self._mean: np.ndarray | None = None
        self._squares = np.zeros(())
        self._sum = self._sum_squares = self._squared_error = 0.0
        self._first: np.ndarray | None = None
        self._ragged = self._changes = False

    def add(self, reference: np.ndarray, candidate: np.ndarray, n_items: int) -> None:
        """Compare one batch of `n_items` items, which lie along axis 0 where it has that length."""
        if self.problem:
            return
        if self._any_float and is_float(reference) and is_float(candidate):
            self._unit = max(self._unit, rounding_unit(candidate.dtype))
            candidate = candidate.astype(reference.dtype)
        self.problem = _mismatch(reference, candidate)
        if self.problem:
            return
        if is_float(reference):
            self._add_numbers(_as_float(reference), _as_float(candidate), n_items)
            self._unit = max(self._unit, rounding_unit(reference.dtype))
        else:
            self._add_exact(reference, candidate, n_items)

    def add_noise(self, reference: np.ndarray, perturbed: np.ndarray) -> None:
        """Take in how far the reference moves when its inputs are moved by about one rounding."""
        if reference.shape == perturbed.shape and reference.size and is_float(reference):
            with np.errstate(invalid="ignore"):  # infinity less infinity
                moved = np.abs(_as_float(reference) - _as_float(perturbed))
            self.noise = max(self.noise, float(np.max(moved, where=np.isfinite(moved), initial=0.0)))

    def judge(self, rtol: float, atol: float, flipped_fraction: float = 0.0) -> Judgement:
        """Weigh all that was gathered. `flipped_fraction` of the elements of integer and text tensors may differ."""
        if self.problem:
            return Judgement(MAX_ERROR, self.max_abs, -MAX_SQNR_DB, True, self.problem)
        return self._judge_exact(flipped_fraction) if self._exact else self._judge_numbers(rtol, atol)

    def _judge_exact(self, flipped_fraction: float) -> Judgement:
        fraction = self._n_different / max(1, self._n_elements)
        if fraction <= flipped_fraction:
            return Judgement(fraction, self.max_abs, MAX_SQNR_DB, self._changes)
        error = fraction / flipped_fraction if flipped_fraction else 1.0 + self._n_different
        cause = f"{self._n_different} of {self._n_elements} elements ({fraction:.2%}) are other integers or texts"
        return Judgement(min(error, MAX_ERROR), self.max_abs, 0.0, self._changes, cause)

    def _judge_numbers(self, rtol: float, atol: float) -> Judgement:
        variation = self._variation()
        rounding = _ROUNDINGS * self._unit * self._largest
        scale = max(variation, min(atol, self._largest))
        allowed = rtol * scale + rounding + min(_NOISE_MULTIPLE * self.noise, _LARGEST_NOISE_SHARE * scale)
        error = min(self.max_abs / allowed, MAX_ERROR) if allowed else MAX_ERROR * bool(self.max_abs)
        cause = f"off by {self.max_abs:.3g}, {allowed:.3g} is allowed (it varies by {variation:.3g})"
        return Judgement(
            error, self.max_abs, self._sqnr_db(variation), variation > rounding, cause if error > 1 else ""
        )

    def _add_exact(self, reference: np.ndarray, candidate: np.ndarray, n_items: int) -> None:
        self._exact = True
        different = reference != candidate
        if self._steps and reference.dtype.name in ("int8", "uint8"):
            different &= np.abs(reference.astype(np.int16) - candidate) > self._steps
        self._n_different += int(np.count_nonzero(different))
        self._n_elements += reference.size
        if different.any():
            numeric = reference.dtype.kind in "iu"
            gap = np.abs(reference.astype(np.float64) - candidate.astype(np.float64)).max() if numeric else 1.0
            self.max_abs = max(self.max_abs, float(gap))
        items = _items(reference, n_items)
        first = items[0] if self._first is None else self._first
        self._first, self._changes = first, self._changes or any(not np.array_equal(item, first) for item in items)

    def _add_numbers(self, reference: np.ndarray, candidate: np.ndarray, n_items: int) -> None:
        # Infinities are equal here (`_mismatch` made sure) and no measure of variation.
        finite = np.isfinite(reference)
        if not finite.all():
            reference, candidate = np.where(finite, reference, 0), np.where(finite, candidate, 0)
        if reference.size:
            gaps = np.abs(reference - candidate)
            self.max_abs = max(self.max_abs, float(gaps.max()))
            self._largest = max(self._largest, float(np.abs(reference).max()))
            self._squared_error += float(np.square(gaps).sum())
        self._n_elements += reference.size
        self._sum += float(reference.sum())
        self._sum_squares += float(np.square(reference).sum())
        self._add_moments(_items(reference, n_items))

    def _add_moments(self, items: np.ndarray) -> None:
        """Merge the mean and the squared deviations of each element over items (Chan, Golub and LeVeque, 1979)."""
        count, mean = len(items), items.mean(axis=0)
        squares = np.square(items - mean).sum(axis=0)
        if self._mean is None:
            self._mean, self._squares = mean, squares
        elif self._mean.shape != mean.shape:
            self._ragged = True
        else:
            total = self._n_items + count
            gap = mean - self._mean
            self._squares = self._squares + squares + np.square(gap) * (self._n_items * count / total)
            self._mean = self._mean + gap * (count / total)
        self._n_items += count

    def _variation(self) -> float:
        """Root mean square over elements of their standard deviation over items.

        With one item, or items of different shapes, the standard deviation of all elements stands in.
        """
        if self._n_items > 1 and not self._ragged:
            return math.sqrt(float(self._squares.mean()) / self._n_items) if self._squares.size else 0.0
        mean = self._sum / max(1, self._n_elements)
        return math.sqrt(max(0.0, self._sum_squares / max(1, self._n_elements) - mean * mean))

    def _sqnr_db(self, variation: float) -> float:
        signal = variation * variation * self._n_elements or self._sum_squares
        if not self._squared_error:
            return MAX_SQNR_DB
        ratio = signal / self._squared_error
        return max(-MAX_SQNR_DB, min(MAX_SQNR_DB, 10 * math.log10(ratio))) if ratio else -MAX_SQNR_DB


def rounding_unit(dtype: np.dtype[Any]) -> float:
    """Distance from 1 to the next number of a float type."""
    import ml_dtypes

    information: Any = ml_dtypes.finfo
    return float(information(dtype).eps)


def _mismatch(reference: np.ndarray, candidate: np.ndarray) -> str:
    """Say why the difference cannot be taken, or return an empty string."""
    if reference.dtype != candidate.dtype and not {reference.dtype.kind, candidate.dtype.kind} <= set("OSUT"):
        return f"type {candidate.dtype}, expected {reference.dtype}"
    if reference.shape != candidate.shape:
        return f"shape {list(candidate.shape)}, expected {list(reference.shape)}"
    if not is_float(reference):
        return ""
    for array, who in ((reference, "the first model itself gives"), (candidate, "the second model gives")):
        n_nan = int(np.isnan(array).sum())
        if n_nan:
            return f"{who} NaN in {n_nan} of {array.size} elements"
    infinite, also = np.isinf(reference), np.isinf(candidate)
    if not infinite.any() and not also.any():
        return ""
    if not np.array_equal(infinite, also) or (reference[infinite] != candidate[infinite]).any():
        return "infinity in other places"
    return ""


def is_float(array: np.ndarray) -> bool:
    """Whether the array holds real or complex numbers of a float type, those of ml_dtypes included."""
    return array.dtype.kind in "fc" or array.dtype.name.startswith(("bfloat", "float"))


def _as_float(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], axis=-1).astype(np.float64)
    return array.astype(np.float64)


def _items(array: np.ndarray, n_items: int) -> np.ndarray:
    return array if array.ndim and len(array) == n_items else array[np.newaxis]
