"""Where two models part: which operator is the first that differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tightship import bridges, engines
from tightship.core.dataset import Dataset
from tightship.core.exported import export
from tightship.core.model import Model
from tightship.core.progress import Progress
from tightship.core.target import Target
from tightship.core.torch_module import from_torch
from tightship.errors import ParityError, TightshipError
from tightship.measure import parity
from tightship.measure.locate import Difference, first_difference
from tightship.measure.reproduce import reproduce
from tightship.measure.traces import first_lost
from tightship.search import Source

if TYPE_CHECKING:
    import torch

__all__ = ["Location", "first_wrong_cut", "locate"]

_ADDS_UP = "no single operator differs; small differences add up"


@dataclass(frozen=True)
class Location:
    """The operator that differs first; `not_located` says why it is not known.

    Where operators could not be paired, all of them or those that it may be instead, `lost` names the first operator of
    the first model whose result the second does not compute.
    """

    difference: Difference | None = None
    lost: str = ""
    not_located: str = ""
    reproduction: Path | None = None

    def __str__(self) -> str:
        found = [f"first operator that it does not compute: {self.lost}"] if self.lost else []
        found += [] if self.difference is None else [f"first operator that differs: {self.difference}"]
        return "; ".join(found) or f"which operator differs is not known: {self.not_located}"


def locate(
    one: Source,
    other: Source,
    dataset: Dataset,
    *,
    rtol: float,
    atol: float,
    folder: Path | None,
    progress: Progress,
) -> Location:
    """Find the first operator of `other` that differs from `one`, and write a reproduction of it to `folder`.

    Models of other formats are compared as the graphs that they convert to, each proven to compute what its model does;
    where it does not, as where the bridge to the graph is itself what is wrong, by what their operators compute.
    """
    try:
        return _of_graphs(one, other, dataset, (rtol, atol), folder, progress)
    except TightshipError as error:
        return Location(lost=_lost(one.model, other.model, dataset, progress), not_located=str(error))


def first_wrong_cut(model: Model, agrees: Callable[[Model], bool], progress: Progress) -> str:
    """Find by halving the first operator of a module after which a cut of it no longer `agrees`, in words.

    For files that are written but not read back: each cut is written and run by itself. Empty where the whole agrees.
    """
    code = export(model, batch=False).run_decompositions({}).module()
    names = [node.name for node in code.graph.nodes if node.op == "call_function" and _is_tensor(node)]
    low, high = 0, len(names)
    with progress.step("cutting the model", max(1, len(names).bit_length())) as advance:
        while low < high:
            middle = (low + high) // 2
            if agrees(_cut(model, code, names[middle])):
                low = middle + 1
            else:
                high = middle
            advance(1)
    if low == len(names):
        return ""
    node = next(node for node in code.graph.nodes if node.name == names[low])
    return f"{str(node.target).removesuffix('.default')} {node.name!r} ({list(node.meta['val'].shape)})"


def _is_tensor(node: torch.fx.Node) -> bool:
    import torch

    return isinstance(node.meta.get("val"), torch.Tensor)


def _cut(model: Model, code: torch.fx.GraphModule, name: str) -> Model:
    """The module up to node `name`, whose result is its only output."""
    import copy

    import torch

    graph = copy.deepcopy(code.graph)
    kept = next(node for node in graph.nodes if node.name == name)
    for node in reversed(graph.nodes):
        if node.op == "output":
            graph.erase_node(node)
            break
    with graph.inserting_after(next(reversed(graph.nodes))):
        graph.output((kept,))
    graph.set_codegen(torch.fx.graph.CodeGen())
    module = torch.fx.GraphModule(code, graph).eval()
    module.graph.eliminate_dead_code()
    module.recompile()
    return from_torch(module, model.content.example_inputs)


def _of_graphs(
    one: Source,
    other: Source,
    dataset: Dataset,
    tolerance: tuple[float, float],
    folder: Path | None,
    progress: Progress,
) -> Location:
    rtol, atol = tolerance
    first, second = (_graph(source, dataset, tolerance, progress) for source in (one, other))
    targets = (_target(one), _target(other))
    difference = first_difference(first, second, *targets, dataset, rtol=rtol, atol=atol, progress=progress)
    if difference is None:
        return Location(not_located=_ADDS_UP)
    lost = _lost(one.model, other.model, dataset, progress) if difference.suspects else ""
    reproduction = None if folder is None else reproduce(first, second, difference, targets, dataset, folder)
    return Location(difference, lost, reproduction=reproduction)


def _lost(first: Model, second: Model, dataset: Dataset, progress: Progress) -> str:
    with progress.step("comparing what operators compute"):
        try:
            found = first_lost(first, second, dataset)
        except (TightshipError, MemoryError):
            return ""
        except Exception:  # a framework raises what it likes where it cannot show its inside; this is no verdict
            return ""
    return "" if found is None else str(found)


def _graph(source: Source, dataset: Dataset, tolerance: tuple[float, float], progress: Progress) -> Model:
    """The graph of a model, proven to be its graph: a fault of the conversion must not be taken for one of the model.

    Raises `ParityError` where it is not.
    """
    if source.model.form == "graph" and engines.ENGINES[source.target.engine].form == "graph":
        return source.model
    converted = bridges.route(source.model, "graph", progress)
    rtol, atol = tolerance
    with source.open(exact=True) as original, engines.open_session(converted, Target(exact=True)) as session:
        agreement = parity.compare(original, session, dataset, rtol=rtol, atol=atol, max_items=4, progress=progress)
    if not agreement.agrees:
        raise ParityError(
            f"{source.artifact.path}: operators cannot be compared, since its graph differs from it: {agreement.cause}"
        )
    return converted


def _target(source: Source) -> Target:
    return source.target if source.target.engine in ("onnxruntime", "openvino") else Target()
