"""The same function in fewer operators: what is known beforehand is computed beforehand, what nobody reads goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tightship.core.dataset import Dataset
from tightship.core.graph import graph_specs, quiet_libraries
from tightship.core.model import Form, Model
from tightship.core.passes import DataNeed, Pass, PassResult
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store
from tightship.errors import InvalidModel
from tightship.passes.affine import merge_affine
from tightship.passes.editing import deep_copy, editable, name_everything, refuse_nan
from tightship.passes.folding import fold_constants
from tightship.passes.upgrade import upgraded

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Simplify"]

_MOST_ROUNDS = 8
"""Folding makes new rewrites possible and the other way round; networks seen so far settle in two rounds."""

_BIG_BYTES = 1024


@dataclass(frozen=True)
class Simplify(Pass):
    """Fold constants, merge operators and drop what is never read; outputs stay the same.

    BatchNormalization, in parts too, and Pad go into the convolution before or after them, chains of slices, casts,
    transposes and clips into one, functions into the graph that calls them. Every operator gets a unique name, shapes
    are inferred afresh, initializers stop being inputs, and models below opset 13 are brought to 17 where that is
    exact. Weights are folded where that takes no more room, small constants in any case. Needs no data.
    """

    name: ClassVar[str] = "simplify"
    form: ClassVar[Form] = "graph"
    data: ClassVar[DataNeed] = "none"
    lossless: ClassVar[bool] = True

    def apply(
        self, model: Model, data: Dataset | None = None, progress: Progress = SILENT, store: Store | None = None
    ) -> PassResult:
        refuse_nan(model.graph)
        graph, notes = upgraded(editable(model))
        simple, more_notes = _simplified(graph)
        notes += more_notes
        if _outline(simple) == _outline(model.graph):
            return PassResult(model, False, notes)
        return PassResult(model.after(self.step, simple), True, notes)


def _simplified(graph: onnx_ir.Model) -> tuple[onnx_ir.Model, tuple[str, ...]]:
    """Return a simplified copy; where onnxscript fails on the model, one by the safe rewrites of onnx_ir alone."""
    reason = ""
    for rewrites in (_all_rewrites, _safe_rewrites):
        try:
            with quiet_libraries():
                simple = _settled(graph, rewrites)
            _keep_interface(graph, simple)
        except Exception as error:  # rewriters of other libraries raise many types
            reason = reason or str(error).partition("\n")[0]
            continue
        notes = (f"only dead and repeated code was removed, since onnxscript failed: {reason}",) if reason else ()
        return simple, notes
    raise InvalidModel(f"the graph cannot be simplified, so something in it is malformed: {reason}")


def _settled(graph: onnx_ir.Model, rewrites: Callable[[onnx_ir.Model], None]) -> onnx_ir.Model:
    """Apply `rewrites` to a copy until nothing changes any more."""
    graph = _cleaned(graph)
    outline = _outline(graph)
    for _ in range(_MOST_ROUNDS):
        rewrites(graph)
        graph = _cleaned(graph)
        before, outline = outline, _outline(graph)
        if outline == before:
            break
    return graph


def _all_rewrites(graph: onnx_ir.Model) -> None:
    from onnx_ir.passes import common
    from onnxscript import rewriter

    common.InlinePass()(graph)
    fold_constants(graph)
    rewriter.rewrite(graph)
    merge_affine(graph)
    _safe_rewrites(graph)


def _safe_rewrites(graph: onnx_ir.Model) -> None:
    from onnx_ir.passes import common

    steps: tuple[Callable[[onnx_ir.Model], object], ...] = (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.OutputFixPass(),
    )
    for step in steps:
        step(graph)


def _cleaned(graph: onnx_ir.Model) -> onnx_ir.Model:
    """Return a copy with shapes inferred afresh, everything named, and the notes of exporters dropped."""
    from onnx_ir.passes import common

    # The copy also forgets operators that rewriters detached but left on the lists of their inputs' readers.
    graph = deep_copy(graph)
    for value in _computed(graph):
        value.metadata_props.clear()
        value.shape = None
    common.ClearMetadataAndDocStringPass()(graph)
    name_everything(graph)
    if any("Sequence" in node.op_type or "Optional" in node.op_type for node in graph.graph.all_nodes()):
        return graph  # onnx_ir's inference writes the types of sequences down as those of tensors
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(graph)
    for value in _computed(graph):
        value.shape = _without_invented(value.shape)
    return graph


def _computed(graph: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    """Yield what operators compute, the outputs of graphs left out: their shapes are declared."""
    for subgraph in graph.graphs():
        outputs = set(subgraph.outputs)
        yield from (value for node in subgraph for value in node.outputs if value not in outputs)


def _without_invented(shape: onnx_ir.Shape | None) -> onnx_ir.Shape | None:
    """Drop the names `unk__7` that inference gives to unknown lengths; they count up at every run."""
    import onnx_ir

    if shape is None:
        return None
    dims = [None if isinstance(dim, onnx_ir.SymbolicDim) and str(dim).startswith("unk__") else dim for dim in shape]
    return onnx_ir.Shape(dims)


def _keep_interface(before: onnx_ir.Model, after: onnx_ir.Model) -> None:
    """Give outputs the shapes they were declared with, which inference may have narrowed; refuse any other change."""
    for declared, value in zip(before.graph.outputs, after.graph.outputs, strict=True):
        value.shape = None if declared.shape is None else declared.shape.copy()
    wanted, found = graph_specs(before), graph_specs(after)
    if wanted != found:
        raise InvalidModel(f"inputs and outputs became {found}, expected {wanted}")


def _outline(graph: onnx_ir.Model) -> tuple[bytes, dict[str, int]]:
    """What tells two versions of a graph apart without reading weights: passes replace big tensors, never edit them."""
    import onnx_ir

    small = graph.clone()
    big = {
        name: id(value.const_value)
        for name, value in list(small.graph.initializers.items())
        if value.const_value is not None and value.const_value.nbytes > _BIG_BYTES
    }
    for name in big:
        small.graph.initializers.pop(name)
    return onnx_ir.to_proto(small).SerializeToString(deterministic=True), big
