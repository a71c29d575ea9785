"""The table of bridges between the forms of a model. Adding a bridge is one file here and its row.

`route` is the only one that knows chains: no pass and no format converts by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from tightship.bridges.keras_to_onnx import to_graph as keras_to_graph
from tightship.bridges.onnx_to_keras import to_keras
from tightship.bridges.onnx_to_torch import to_module
from tightship.bridges.torch_to_onnx import to_graph
from tightship.core.model import Form, Model
from tightship.core.progress import SILENT, Progress
from tightship.errors import TightshipError, UnsupportedError

__all__ = ["BRIDGES", "Bridge", "chain", "route", "ways"]

Bridge = Callable[[Model, Progress], Model]
"""Converts a model of one form into another form; it stays as it was."""

BRIDGES: Mapping[tuple[Form, Form], Bridge] = {
    ("module", "graph"): to_graph,
    ("graph", "module"): to_module,
    ("graph", "keras"): to_keras,
    ("keras", "graph"): keras_to_graph,
}


def route(model: Model, form: Form, progress: Progress = SILENT) -> Model:
    """Return `model` in `form`, over the fewest bridges; a model that has the form is returned as it is.

    Raises `UnsupportedError` where no chain of bridges leads there, and what the bridges raise.
    """
    for bridge in chain(model.form, form, BRIDGES):
        try:
            model = bridge(model, progress)
        except (TightshipError, MemoryError):
            raise
        except Exception as error:  # torch, TensorFlow and ONNX raise what they like on models that they do not know
            raise UnsupportedError(
                f"converting the {model.form} failed inside a library, with {type(error).__name__}: {error}"
            ) from error
    return model


def chain(start: Form, end: Form, bridges: Mapping[tuple[Form, Form], Bridge]) -> tuple[Bridge, ...]:
    """Return the shortest chain of bridges from one form to another. Raises `UnsupportedError` where there is none."""
    forms = _shortest(start, bridges).get(end)
    if forms is None:
        known = ", ".join(f"{source} to {target}" for source, target in bridges)
        raise UnsupportedError(f"no bridge leads from a {start} to a {end}; there are: {known}")
    return tuple(bridges[pair] for pair in pairwise(forms))


def ways(start: Form, ends: Sequence[Form], through: Form | None = None) -> tuple[tuple[Form, ...], ...]:
    """Return the forms that a model goes through to each of `ends` that can be reached, the fewest bridges first.

    Every way leads through the form `through`, where one is named.
    """
    first = _shortest(start, BRIDGES)
    if through is None or through == start:
        found = [first[end] for end in ends if end in first]
    else:
        second = _shortest(through, BRIDGES)
        found = [(*first[through][:-1], *second[end]) for end in ends if through in first and end in second]
    return tuple(sorted(found, key=len))


def _shortest(start: Form, bridges: Mapping[tuple[Form, Form], Bridge]) -> dict[Form, tuple[Form, ...]]:
    """The shortest way from `start` to every form that can be reached, as the forms along it (breadth first)."""
    found: dict[Form, tuple[Form, ...]] = {start: (start,)}
    pending = deque([start])
    while pending:
        here = pending.popleft()
        for source, target in bridges:
            if source == here and target not in found:
                found[target] = (*found[here], target)
                pending.append(target)
    return found
