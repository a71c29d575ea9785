"""Old models in today's operators: opset conversion that is kept only if the model provably computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tightship.core.graph import from_ir
from tightship.core.opset import upgrade
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import EngineError, InvalidModel
from tightship.passes.editing import deep_copy

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["upgraded"]

_OLDEST_OPSET = 13
"""What quantizing passes write needs it (per-channel QDQ)."""

_NEW_OPSET = 17
_NEW_IR_VERSION = 8

_TOLERANCE = 1e-6
"""Relative to the largest output: a converted operator is the same arithmetic in the same order."""


def upgraded(graph: onnx_ir.Model) -> tuple[onnx_ir.Model, tuple[str, ...]]:
    """Return the graph at opset 17 if it was below 13, else as it is, and notes on what could not be done.

    ONNX's converter is silently inexact for some operators (linear Resize, Hardmax), so the result is run against
    the source on ONNX Runtime and dropped where it differs or cannot be run.
    """
    opset = graph.opset_imports.get("", _OLDEST_OPSET)
    if opset >= _OLDEST_OPSET:
        return graph, ()
    converted = deep_copy(graph)
    reason = _convert(converted) or _difference(graph, converted)
    if reason:
        return graph, (f"the model stays at opset {opset}: {reason}",)
    return converted, ()


def _convert(graph: onnx_ir.Model) -> str:
    reason = upgrade(graph, _NEW_OPSET)
    graph.ir_version = max(graph.ir_version, _NEW_IR_VERSION)
    return reason


def _difference(before: onnx_ir.Model, after: onnx_ir.Model) -> str:
    """Run both on one made-up input; return how they differ, or an empty string."""
    target = Target(threads=1, layout="plain")
    source = from_ir(before)
    try:
        with open_session(source, target) as old, open_session(from_ir(after), target) as new:
            inputs = _made_up(source.inputs)
            wanted, found = old.run(inputs), new.run(inputs)
    except (EngineError, InvalidModel) as error:
        return f"the conversion could not be proven ({error})"
    wrong = [name for name, array in wanted.items() if not _same(array, found[name])]
    return f"its conversion changes output {wrong[0]!r}" if wrong else ""


def _made_up(specs: tuple[TensorSpec, ...]) -> Arrays:
    """Normal floats, and zeros for everything else, since a whole number may be an index."""
    random = np.random.default_rng(0)
    return {
        spec.name: random.standard_normal(spec.resolve(1)).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else np.zeros(spec.resolve(1), spec.dtype)
        for spec in specs
    }


def _same(wanted: np.ndarray, found: np.ndarray) -> bool:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return False
    if not np.issubdtype(wanted.dtype, np.floating):
        return bool(np.array_equal(wanted, found))
    largest = float(np.abs(wanted).max(initial=0.0))
    return bool(np.allclose(found, wanted, rtol=0, atol=_TOLERANCE * largest, equal_nan=True))
