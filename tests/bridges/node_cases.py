"""ONNX's own node cases (onnx.backend.test) as the judge of a bridge: each is a model, inputs and expected outputs."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase

__all__ = ["PASSED", "Run", "cases", "judge", "operator_of", "verdict"]

Run = Callable[[onnx.ModelProto, list[Any]], Sequence[Any]]
"""Converts a model, runs it on its inputs and returns its outputs: arrays, lists of them (sequences) or None."""

PASSED = "passed"


@functools.cache
def cases() -> tuple[TestCase, ...]:
    """Every node case of the installed onnx; making them takes about ten seconds."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases divide by zero on purpose
        return tuple(load_model_tests(kind="node"))


def operator_of(case: TestCase) -> str:
    """The operator that a case is about; cases with it written out as others belong to it, too."""
    name: str = case.model.graph.node[-1].op_type if "_expanded" not in case.name else "expanded"
    return name


def judge(run: Run, chosen: Iterable[TestCase] | None = None) -> dict[str, str]:
    """Return `passed`, or what went wrong, for every case."""
    return {case.name: verdict(run, case) for case in (cases() if chosen is None else chosen)}


def verdict(run: Run, case: TestCase) -> str:
    """Return `passed`, or what went wrong first: an error, or an output that differs by more than the case allows."""
    for inputs, expected in case.data_sets:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = run(case.model, [_plain(value) for value in inputs])
        except Exception as error:  # whatever a bridge raises is a case that fails
            return f"{type(error).__name__}: {error}"
        if len(found) != len(expected):
            return f"{len(found)} outputs, expected {len(expected)}"
        for index, (have, want) in enumerate(zip(found, expected, strict=True)):
            fault = _fault(have, _plain(want), case.rtol, case.atol)
            if fault:
                return f"output {index}: {fault}"
    return PASSED


def _plain(value: Any) -> Any:
    """A tensor of a type that numpy lacks comes as a message."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _fault(found: Any, expected: Any, rtol: float, atol: float) -> str:
    if isinstance(expected, list):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return f"expected a sequence of {len(expected)}, found {type(found).__name__}"
        faults = (_fault(have, want, rtol, atol) for have, want in zip(found, expected, strict=True))
        return next((fault for fault in faults if fault), "")
    if expected is None or found is None:
        return "" if found is expected else f"expected {expected}, found {found}"
    found, expected = np.asarray(found), np.asarray(expected)
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"expected {expected.dtype}{list(expected.shape)}, found {found.dtype}{list(found.shape)}"
    if expected.dtype.kind in "biuOSU":
        n_wrong = int((found != expected).sum())
        return f"{n_wrong} of {expected.size} differ" if n_wrong else ""
    if expected.dtype.kind != "c":
        found, expected = found.astype(np.float64), expected.astype(np.float64)
    if np.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    with np.errstate(all="ignore"):
        return f"largest error {np.nanmax(np.abs(found - expected)):.3g}"
