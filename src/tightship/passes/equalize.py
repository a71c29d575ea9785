"""Scales moved from one operator to the next, so that the channels between them become of one size.

    x -> Conv W1, b1 -> Relu -> Conv W2        becomes        x -> Conv W1 / s, b1 / s -> Relu -> Conv s W2

with `s > 0` per channel, since Relu(x / s) = Relu(x) / s. One 8-bit range then serves every channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tightship.core.dataset import Dataset
from tightship.core.model import Form, Model, Step
from tightship.core.passes import DataNeed, Pass, PassResult
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store
from tightship.passes.calibration import observe_channels
from tightship.passes.channel_scales import best_scales
from tightship.passes.channels import Constant, Reader, readers_of, rescale
from tightship.passes.editing import constant, editable, infer_shapes, known_constant, name_everything, refuse_nan

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Chain", "Equalize", "Written", "find_chains", "move_scales", "product_channels"]


@dataclass(frozen=True)
class Equalize(Pass):
    """Make the channels between two products of one size, for 8 bits to serve all; outputs stay the same.

    What a channel is divided by in a Conv, Gemm or MatMul, the weights that read it are multiplied by: depthwise
    convolutions take all of it, others as much as rounds least in total (cross-layer equalization, arXiv 1906.04721).
    Between the two there may be what a factor passes through (Relu, LeakyRelu, pooling, a bias). A Clip (ReLU6) is no
    such thing: its bound would have to differ from channel to channel. Before `int8-static`.
    """

    name: ClassVar[str] = "equalize"
    form: ClassVar[Form] = "graph"
    data: ClassVar[DataNeed] = "calibration"
    lossless: ClassVar[bool] = True

    def apply(
        self, model: Model, data: Dataset | None = None, progress: Progress = SILENT, store: Store | None = None
    ) -> PassResult:
        return move_scales(model, self.step, data, product_channels, -1.0, progress)


@dataclass(frozen=True)
class Written:
    """A value, the axis of its channels, and the constants that a factor per channel can be put into."""

    value: onnx_ir.Value
    axis: int
    constants: tuple[Constant, ...]


def move_scales(
    model: Model,
    step: Step,
    data: Dataset | None,
    written: Callable[[onnx_ir.Node], Written | None],
    alpha: float,
    progress: Progress,
) -> PassResult:
    """Move scales from what `written` finds in an operator to the products that read it, where that pays.

    Raises `DatasetError` without data.
    """
    refuse_nan(model.graph)
    graph = editable(model)
    name_everything(graph)
    infer_shapes(graph)
    chains, notes = find_chains(graph, written)
    if not chains:
        return PassResult(model, False, notes)
    axes = {readers[0].x.name or "": _axis(readers[0]) for _, readers, _ in chains}
    found = observe_channels(graph, axes, data, progress)
    n_moved = 0
    for start, readers, added in chains:
        scales = best_scales(found[readers[0].x.name or ""], readers, alpha)
        if scales is not None:
            rescale(graph, [*start.constants, *added], 1 / scales)
            rescale(graph, [reader.weight for reader in readers], scales)
            n_moved += 1
    if not n_moved:
        return PassResult(model, False, notes)
    return PassResult(model.after(step, graph), True, (f"{n_moved} of {len(chains)} chains changed", *notes))


Chain = tuple[Written, list[Reader], list[Constant]]


def find_chains(
    graph: onnx_ir.Model, written: Callable[[onnx_ir.Node], Written | None]
) -> tuple[list[Chain], tuple[str, ...]]:
    chains: list[Chain] = []
    in_the_way: Counter[str] = Counter()
    for node in graph.graph:
        start = written(node)
        if start is None:
            continue
        found = readers_of(start.value, start.axis)
        if isinstance(found, str):
            in_the_way[found] += 1
        elif _disjoint(start, *found):
            chains.append((start, *found))
    notes = [f"{count} stopped by {name}" for name, count in sorted(in_the_way.items()) if name == "Clip"]
    return chains, tuple(notes)


def _disjoint(start: Written, readers: Sequence[Reader], added: Sequence[Constant]) -> bool:
    """Whether no constant is to be scaled twice, as one that several inputs share would be."""
    entries = [*start.constants, *added, *(reader.weight for reader in readers)]
    return len({(entry.node, entry.index) for entry in entries}) == len(entries)


def _axis(reader: Reader) -> int:
    return 1 if reader.weight.node.op_type == "Conv" else len(reader.x.shape) - 1


def product_channels(node: onnx_ir.Node) -> Written | None:
    """The output channels of a product by a constant weight."""
    if node.domain != "" or node.op_type not in {"Conv", "Gemm", "MatMul"} or node.outputs[0].shape is None:
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype.name != "FLOAT":
        return None
    if node.op_type == "MatMul":
        rank = len(node.outputs[0].shape)
        return Written(node.outputs[0], rank - 1, (Constant(node, 1, 1),)) if len(weight.shape) == 2 else None
    axis = 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) else 1
    constants = [Constant(node, 1, axis)]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        if constant(bias) is None or known_constant(bias).size != weight.shape[axis]:
            return None
        constants.append(Constant(node, 2, len(known_constant(bias).shape) - 1))
    return Written(node.outputs[0], 1, tuple(constants))
