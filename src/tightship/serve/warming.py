"""A model's first runs, before it gets traffic: that it runs, how long that takes, whether requests may share a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightship.core.session import Arrays, Session
from tightship.core.specs import TensorSpec
from tightship.errors import EngineError
from tightship.serve.protocol.datatypes import numpy_dtype

__all__ = ["Warmth", "warm"]

LENGTHS = (8, 1, 224, 64)
"""Tried one after the other for axes, other than the first, whose length is free."""

N_TIMED = 20
TIMED_S = 0.02
SHARING_PAYS = 0.9
"""Two items together must take less than this share of the time that they take one by one."""

RELATIVE_ERROR = 1e-3
"""Engines choose other kernels for other batch sizes; a model that mixes its items is off by far more."""


@dataclass(frozen=True)
class Warmth:
    """What the first runs told: seconds of a run of one item, and whether items may run together, and gain by it.

    `n_elements` is how many elements the inputs of that run had. A model whose free axes take none of the lengths that
    were tried was not run: `run_s` is infinite.
    """

    run_s: float
    n_elements: int
    together: bool


def warm(session: Session) -> Warmth:
    """Run a model on made-up items. Raises `EngineError` where it has fixed shapes and does not run."""
    found = _first_run(session)
    if found is None:
        return Warmth(float("inf"), 0, False)
    items, first = found
    n_elements = sum(array.size for array in items[0].values())
    started = time.perf_counter()
    try:
        second = session.run(items[1])
    except EngineError:  # a table of one row, perhaps
        return Warmth(_timed(session, items[0]), n_elements, False)
    run_s = time.perf_counter() - started
    if run_s < TIMED_S:  # so short a time is not known from one run
        run_s = _timed(session, items[0])
    return Warmth(run_s, n_elements, _may_share(session, items, (first, second), run_s))


def _first_run(session: Session) -> tuple[tuple[Arrays, Arrays], Arrays] | None:
    """Return two different items that the model takes, and what it makes of the first."""
    free = any(isinstance(dim, str) for spec in session.inputs for dim in spec.shape[1:])
    for length in LENGTHS if free else LENGTHS[:1]:
        items = (_item(session.inputs, length, 0), _item(session.inputs, length, 1))
        try:
            return items, session.run(items[0])
        except EngineError:
            if not free:
                raise
    return None


def _item(specs: Sequence[TensorSpec], length: int, number: int) -> Arrays:
    random = np.random.default_rng(number)
    return {spec.name: _values(spec, length, number, random) for spec in specs}


def _values(spec: TensorSpec, length: int, number: int, random: np.random.Generator) -> np.ndarray:
    shape = tuple(dim if isinstance(dim, int) else 1 if axis == 0 else length for axis, dim in enumerate(spec.shape))
    dtype = numpy_dtype(spec.dtype)
    if dtype.kind in "fV":
        return random.standard_normal(shape).astype(dtype)
    if dtype.kind == "O":
        return np.full(shape, "ab"[number], dtype)
    return np.full(shape, number, dtype)  # an index that every table has


def _timed(session: Session, item: Arrays) -> float:
    """Seconds of one run, the quickest of a few."""
    best, until = float("inf"), time.perf_counter() + TIMED_S
    for _ in range(N_TIMED):
        started = time.perf_counter()
        session.run(item)
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended > until:
            break
    return best


def _may_share(session: Session, items: tuple[Arrays, Arrays], apart: tuple[Arrays, Arrays], run_s: float) -> bool:
    specs = (*session.inputs, *session.outputs)
    if not all(spec.shape and isinstance(spec.shape[0], str) for spec in specs):
        return False
    both = {name: np.concatenate([items[0][name], items[1][name]]) for name in items[0]}
    try:
        started = time.perf_counter()
        together = session.run(both)
        both_s = time.perf_counter() - started
    except EngineError:
        return False
    if not all(_agree(together[name], np.concatenate([outputs[name] for outputs in apart])) for name in together):
        return False
    if both_s < TIMED_S:
        both_s = _timed(session, both)
    return both_s < SHARING_PAYS * 2 * run_s


def _agree(found: np.ndarray, wanted: np.ndarray) -> bool:
    if found.shape != wanted.shape:
        return False
    if found.dtype.kind not in "fV":
        return bool(np.array_equal(found, wanted))
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    scale = float(np.abs(wanted).max(initial=0.0))
    return bool(np.allclose(found, wanted, rtol=0.0, atol=RELATIVE_ERROR * scale, equal_nan=True))
