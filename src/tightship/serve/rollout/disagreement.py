"""How far two versions' answers to the same request differ, as a number from 0 (the same) to 1.

class       share of rows whose largest value is elsewhere: classification
values      share of elements that differ by more than a hundredth of the answer's largest: regression, masks, boxes
direction   half of 1 - cosine, the largest over rows: embeddings
exact       share of elements that are not equal: labels, tokens, text
auto        by output: `exact` for whole numbers and text, `class` for matrices of at least two columns, else `values`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["AUTO", "MEASURES", "Measure"]

Arrays = Mapping[str, np.ndarray]
Measure = Callable[[Arrays, Arrays], float]

AUTO = "auto"
TOLERANCE = 0.01

MAX_ELEMENTS = 1 << 16
"""Of larger answers only some rows or elements are compared, evenly spread: requests wait meanwhile."""


def _class(old: np.ndarray, new: np.ndarray) -> float:
    if old.ndim == 0 or old.shape[-1] < 2:
        return _values(old, new)
    differs = np.argmax(old, axis=-1) != np.argmax(new, axis=-1)
    return float(np.mean(differs | (_broken(old) != _broken(new))))


def _broken(rows: np.ndarray) -> np.ndarray:
    return np.isnan(rows).any(axis=-1) if rows.dtype.kind != "O" else np.zeros(rows.shape[:-1], bool)


def _values(old: np.ndarray, new: np.ndarray) -> float:
    step = -(-old.size // MAX_ELEMENTS)
    one, other = (array.reshape(-1)[::step].astype(np.float64) for array in (old, new))
    scale = float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one)))
    with np.errstate(invalid="ignore"):  # the difference of two infinities
        same = (np.abs(one - other) <= TOLERANCE * scale) | (one == other) | (np.isnan(one) & np.isnan(other))
    return float(1.0 - np.mean(same))


def _direction(old: np.ndarray, new: np.ndarray) -> float:
    one = old.astype(np.float64).reshape(-1, old.shape[-1] if old.ndim else 1)
    other = new.astype(np.float64).reshape(one.shape)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    cosine = np.divide((one * other).sum(axis=-1), lengths, out=np.ones(len(one)), where=lengths > 0)
    return float(np.max((1.0 - cosine) / 2.0, initial=0.0))


def _exact(old: np.ndarray, new: np.ndarray) -> float:
    return float(np.mean(old != new))


def _auto(old: np.ndarray, new: np.ndarray) -> float:
    if old.dtype.kind not in "fcV":
        return _exact(old, new)
    return _class(old, new) if old.ndim == 2 and old.shape[1] > 1 else _values(old, new)


def _over_outputs(measure: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
    """The largest over outputs; what only one of them has, or has in another shape, differs wholly."""

    def of_answers(old: Arrays, new: Arrays) -> float:
        if old.keys() != new.keys():
            return 1.0
        return max((_of_arrays(measure, old[name], new[name]) for name in old), default=0.0)

    return of_answers


def _of_arrays(measure: Callable[[np.ndarray, np.ndarray], float], old: np.ndarray, new: np.ndarray) -> float:
    if old.shape != new.shape:
        return 1.0
    if old.size > MAX_ELEMENTS and old.ndim > 1:
        step = -(-old.size // MAX_ELEMENTS)
        old, new = (array.reshape(-1, array.shape[-1])[::step] for array in (old, new))
    return measure(old, new) if old.size else 0.0


MEASURES: Mapping[str, Measure] = {
    AUTO: _over_outputs(_auto),
    "class": _over_outputs(_class),
    "values": _over_outputs(_values),
    "direction": _over_outputs(_direction),
    "exact": _over_outputs(_exact),
}
