"""Which of a model's outputs a metric looks at, and labels in the form it needs."""

from __future__ import annotations

import numpy as np

from tightship.core.session import Arrays
from tightship.errors import DatasetMismatch

__all__ = [
    "class_labels",
    "class_scores",
    "compared",
    "finite_labels",
    "flat",
    "is_float",
    "same_numbers",
    "values_like",
]


def is_float(array: np.ndarray) -> bool:
    """Whether the elements are floating-point numbers, bfloat16 and other small types included."""
    return array.dtype.kind == "f" or "float" in array.dtype.name


def compared(outputs: Arrays) -> list[str]:
    """Names of the outputs that fidelity metrics compare: all float ones, or all numeric ones where there is none."""
    names = [name for name, array in outputs.items() if is_float(array)]
    names = names or [name for name, array in outputs.items() if array.dtype.kind in "iub"]
    if not names:
        raise DatasetMismatch(f"the model has no output of numbers to compare, found {_describe(outputs)}")
    return names


def flat(array: np.ndarray) -> np.ndarray:
    """Return [items, elements] as float64."""
    return array.reshape(len(array), -1).astype(np.float64)


def class_scores(outputs: Arrays) -> tuple[str, np.ndarray]:
    """Find the output that classifies, and return its name and [items, classes], [items] floats, or [items] integers.

    The first float output with two or more classes per item; else the first with one float per item (a binary logit or
    probability); else the first with one integer per item (the class itself). Axes of length 1 do not count.
    Raises `DatasetMismatch` where there is none.
    """
    narrow = {name: array.reshape(len(array), -1) for name, array in outputs.items() if _is_row(array)}
    for name, array in narrow.items():
        if is_float(array) and array.shape[1] >= 2:
            return name, array
    for kinds in (is_float, lambda array: array.dtype.kind in "iub"):
        for name, array in narrow.items():
            if kinds(array) and array.shape[1] == 1:
                return name, array[:, 0]
    raise DatasetMismatch(
        f"labels are compared with an output of shape [items, classes], found {_describe(outputs)}; "
        "use cosine, mse or a metric of your own (--metric package.module:function)"
    )


def class_labels(labels: np.ndarray, n_classes: int | None, output: str) -> np.ndarray:
    """Return labels as class numbers [items] from integers [items] or [items, 1], or one-hot rows [items, classes].

    `n_classes` None: the output holds class numbers, and any integer may be one.
    Raises `DatasetMismatch` where they are of another shape, not whole numbers or out of range.
    """
    rows = labels.reshape(len(labels), -1)
    if n_classes is not None and n_classes > 1 and rows.shape[1] == n_classes and _one_hot(rows):
        return np.asarray(rows.argmax(axis=1))
    if rows.shape[1] != 1 or labels.dtype.kind not in "iubf":
        wanted = "[items]" if n_classes is None else f"[items] or one-hot [items, {n_classes}]"
        raise DatasetMismatch(
            f"labels for output {output!r}: expected class numbers {wanted}, "
            f"found {labels.dtype} [items{''.join(f', {dim}' for dim in labels.shape[1:])}]"
        )
    numbers = rows[:, 0].astype(np.int64)
    wrong = rows[:, 0] != numbers
    if n_classes is not None:
        wrong = wrong | (numbers < 0) | (numbers >= n_classes)
    if wrong.any():
        limit = "whole numbers" if n_classes is None else f"class numbers from 0 to {n_classes - 1}"
        raise DatasetMismatch(f"labels for output {output!r}: expected {limit}, found {rows[:, 0][wrong][0]}")
    return numbers


def values_like(outputs: Arrays, labels: np.ndarray) -> np.ndarray:
    """Return the first float output with as many elements per item as `labels`, as [items, elements] float64.

    Raises `DatasetMismatch` where there is none.
    """
    n_elements = labels[0].size
    for array in outputs.values():
        if is_float(array) and array[0].size == n_elements:
            return flat(array)
    raise DatasetMismatch(
        f"labels [items{''.join(f', {dim}' for dim in labels.shape[1:])}]: expected a float output with "
        f"{n_elements} elements per item, found {_describe(outputs)}"
    )


def finite_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels as [items, elements] float64. Raises `DatasetMismatch` where some are not numbers."""
    if labels.dtype.kind not in "iubf" or not np.isfinite(labels).all():
        raise DatasetMismatch(f"labels: expected finite numbers, found {labels.dtype} with some that are not")
    return flat(labels)


def same_numbers(reference: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set elements that are not finite to zero where both have the same (a mask of -inf is no difference)."""
    odd = ~np.isfinite(reference)
    if not odd.any():
        return reference, candidate
    same = odd & ((reference == candidate) | (np.isnan(reference) & np.isnan(candidate)))
    return np.where(same, 0.0, reference), np.where(same, 0.0, candidate)


def _is_row(array: np.ndarray) -> bool:
    return array.ndim > 0 and sum(dim != 1 for dim in array.shape[1:]) <= 1


def _one_hot(rows: np.ndarray) -> bool:
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(axis=1) == 1).all())


def _describe(outputs: Arrays) -> str:
    return ", ".join(
        f"{name!r} {array.dtype.name}[items{''.join(f', {dim}' for dim in array.shape[1:])}]"
        for name, array in outputs.items()
    )
