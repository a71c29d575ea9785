"""Where two graphs part: the first operator whose result differs though what it reads agrees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.graph import from_ir, operator_name
from tightship.core.model import Model
from tightship.core.progress import SILENT, Progress
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.measure.causes import likely_cause
from tightship.measure.matching import match_values
from tightship.measure.parity import PairedRun, paired_runs
from tightship.measure.shapes import infer_shapes
from tightship.measure.tally import Judgement, Tally

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Difference", "exposing", "first_difference"]

_N_SUSPECTS_TOLD = 6
_MAX_ITEMS = 8
_CHUNK_ELEMENTS = 2**24
_UNKNOWN_ELEMENTS = 2**18
_CHUNK_TENSORS = 64
_FLIPPED_FRACTION = 0.01
"""Of the integers inside a graph so many may differ: quantized values fall to either side of a tie."""

Matches = Mapping["onnx_ir.Value", "onnx_ir.Value"]


@dataclass(frozen=True)
class Difference:
    """The first operator of the second model that differs, and the tensor it makes.

    `error` is the largest difference over what is allowed, `max_abs` the largest difference, `finding` says it in
    words, `cause` what explains it (empty where nothing that was looked for does), `expected` the operator of the
    first model that it stands for. Operators in `suspects` come before it, have no counterpart, and may be it instead.
    """

    operator: str
    op_type: str
    tensor: str
    expected: str
    error: float
    max_abs: float
    finding: str
    cause: str
    suspects: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.op_type} {self.operator!r} (tensor {self.tensor!r}): {self.finding}", self.cause]
        if self.suspects:
            nearest = self.suspects[-_N_SUSPECTS_TOLD:]
            more = f" and {len(self.suspects) - len(nearest)} more" if len(nearest) < len(self.suspects) else ""
            parts.append(f"or one of those before it that have no counterpart: {', '.join(nearest)}{more}")
        return "; ".join(part for part in parts if part)


def first_difference(
    first: Model,
    second: Model,
    first_target: Target,
    second_target: Target,
    dataset: Dataset,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    max_items: int = _MAX_ITEMS,
    progress: Progress = SILENT,
) -> Difference | None:
    """Compare the tensors that both graphs have, and return where a difference of the outputs begins, if there is one.

    Both models are of the graph form. Tensors are given out some at a time, which keeps memory bounded and may keep
    an engine from fusing operators; a fault of a fused kernel may then not show. Tolerances are those of
    `parity.compare`. Raises `EngineError` where an engine cannot run a graph with these tensors as outputs.
    """
    matches = match_values(first, second)
    judged: dict[onnx_ir.Value, Judgement] = {}
    with progress.step("comparing operators", len(matches)) as advance:
        for chunk in _chunks(second, matches):
            exposed = {value: matches[value] for value in chunk}
            runs = _runs(first, second, first_target, second_target, exposed, dataset, max_items)
            judged |= _judge(exposed, runs, rtol, atol)
            advance(len(chunk))
    guilty = _first_guilty(second, judged)
    if guilty is None:
        return None
    run = next(_runs(first, second, first_target, second_target, {guilty: matches[guilty]}, dataset, 1))
    return _difference(guilty, matches, judged[guilty], run)


def _first_guilty(model: Model, judged: Mapping[onnx_ir.Value, Judgement]) -> onnx_ir.Value | None:
    """The first value that differs and passes its difference on to an output.

    One whose difference ends before any output is not the same tensor: where an engine folds a normalization into a
    convolution, the name of the convolution's output may come to mean the normalized one.
    """
    passes_on: set[onnx_ir.Value] = set()
    for node in reversed(model.graph.graph):
        for value in node.outputs:
            agrees = value in judged and not judged[value].cause
            reached = any(
                passes_on.intersection(user.outputs) or user.graph is not node.graph for user, _ in value.uses()
            )
            if not agrees and (reached or (value in judged and value.is_graph_output())):
                passes_on.add(value)
    return next((value for value, judgement in judged.items() if judgement.cause and value in passes_on), None)


def _chunks(model: Model, matches: Matches) -> Iterator[list[onnx_ir.Value]]:
    """Cut the matched values into groups that fit into memory, in their order."""
    shapes = infer_shapes(model)
    chunk: list[onnx_ir.Value] = []
    n_elements = 0
    for value in matches:
        size = int(np.prod(shapes[value.name or ""])) if value.name in shapes else _UNKNOWN_ELEMENTS
        if chunk and (n_elements + size > _CHUNK_ELEMENTS or len(chunk) == _CHUNK_TENSORS):
            yield chunk
            chunk, n_elements = [], 0
        chunk.append(value)
        n_elements += size
    if chunk:
        yield chunk


def _runs(
    first: Model,
    second: Model,
    first_target: Target,
    second_target: Target,
    exposed: Matches,
    dataset: Dataset,
    max_items: int,
) -> Iterator[PairedRun]:
    ours, theirs = exposing(first, list(exposed.values())), exposing(second, list(exposed))
    with open_session(ours, first_target) as reference, open_session(theirs, second_target) as candidate:
        yield from paired_runs(reference, candidate, dataset, max_items)


def exposing(model: Model, values: Sequence[onnx_ir.Value]) -> Model:
    """Return the model with these values as its only outputs."""
    clone = model.graph.clone()
    by_name = {value.name: value for node in clone.graph for value in node.outputs}
    clone.graph.outputs.clear()
    clone.graph.outputs.extend(by_name[name] for name in dict.fromkeys(value.name for value in values))
    return from_ir(clone)


def _judge(exposed: Matches, runs: Iterator[PairedRun], rtol: float, atol: float) -> dict[onnx_ir.Value, Judgement]:
    tallies = {value: Tally(any_float=True) for value in exposed}
    for run in runs:
        for value, tally in tallies.items():
            if run.failure:
                tally.problem = run.failure
            else:
                run.tell(tally, exposed[value].name or "", value.name or "")
    return {value: tally.judge(rtol, atol, _FLIPPED_FRACTION) for value, tally in tallies.items()}


def _difference(value: onnx_ir.Value, matches: Matches, judgement: Judgement, run: PairedRun) -> Difference | None:
    theirs, ours = value.producer(), matches[value].producer()
    if theirs is None or ours is None:
        return None
    cause = ""
    if not run.failure:
        reference, candidate = run.reference[matches[value].name or ""], run.candidate[value.name or ""]
        cause = likely_cause(ours, theirs, reference, candidate)
    return Difference(
        operator_name(theirs),
        theirs.op_type,
        value.name or "",
        operator_name(ours),
        judgement.error,
        judgement.max_abs,
        judgement.cause,
        cause,
        tuple(operator_name(node) for node in _unmatched_before(theirs, matches)),
    )


def _unmatched_before(node: onnx_ir.Node, matches: Matches) -> list[onnx_ir.Node]:
    """Operators between `node` and the nearest values that were compared, nearest last."""
    found: dict[onnx_ir.Node, None] = {}
    waiting = [value for value in node.inputs if value is not None]
    while waiting:
        value = waiting.pop()
        maker = value.producer()
        if value in matches or maker is None or maker in found or maker.op_type == "Constant":
            continue
        found[maker] = None
        waiting += [given for given in maker.inputs if given is not None]
    return list(found)[::-1]
