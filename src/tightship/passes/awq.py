"""AWQ: channels that count made larger before weights are rounded, and what writes them smaller.

    x -> LayerNormalization g, b -> MatMul W        becomes        x -> LayerNormalization g / s, b / s -> MatMul s W

(arXiv 2306.00978). Columns of large activations then lose less within their block of codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.graph import from_ir
from tightship.core.model import Form, Model
from tightship.core.passes import DataNeed, Pass, PassResult
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store
from tightship.core.target import Target
from tightship.engines.onnxruntime import OnnxRuntime
from tightship.errors import DatasetError
from tightship.passes.channels import rescale
from tightship.passes.editing import editable, infer_shapes, name_everything, refuse_nan
from tightship.passes.equalize import Chain, find_chains, product_channels
from tightship.passes.linear import linear_operators
from tightship.passes.segments import inner_model
from tightship.passes.smooth import normalized_channels
from tightship.rounding.awq import awq_scales
from tightship.rounding.encoding import Encoding
from tightship.rounding.second_moment import Moments, SecondMoment

if TYPE_CHECKING:
    import onnx_ir

    from tightship.passes.equalize import Written

__all__ = ["Awq"]

_MOST_NUMBERS = 2**28
"""Numbers of second moments held at once, 1 GiB: more channels take another round of the data."""

_BATCH = 8


@dataclass(frozen=True)
class Awq(Pass):
    """Move scales into weights before they are coded, so that they lose less; outputs stay.

    Each channel behind a normalization, or between two products, is divided by a power of its root mean square, and the
    products that read it make up for it (AWQ, arXiv 2306.00978). The power is the one of the least output error at
    these `bits`, `block` and `symmetric`. Before `low-bit` or `weight-only`, with the same three; error feedback
    (`low-bit` at its default) gains more than this and little in addition.
    """

    name: ClassVar[str] = "awq"
    form: ClassVar[Form] = "graph"
    data: ClassVar[DataNeed] = "calibration"
    lossless: ClassVar[bool] = True

    bits: Literal[8, 4, 3, 2] = 4
    block: Literal[16, 32, 64, 128, 256] = 128
    symmetric: bool = False

    def __post_init__(self) -> None:
        Encoding(self.bits, self.block, self.symmetric)

    def apply(
        self, model: Model, data: Dataset | None = None, progress: Progress = SILENT, store: Store | None = None
    ) -> PassResult:
        if data is None:
            raise DatasetError("awq needs data and got none: give representative inputs, 100 items or more")
        refuse_nan(model.graph)
        graph = editable(model)
        name_everything(graph)
        infer_shapes(graph)
        found, _ = find_chains(graph, _written)
        products = {linear.node for linear in linear_operators(graph)}
        found = [chain for chain in found if all(reader.weight.node in products for reader in chain[1])]
        moved = [self._move(graph, *pair) for pair in _moments(graph, found, data, progress)]
        if not any(moved):
            return PassResult(model, False)
        note = f"{sum(moved)} of {len(moved)} groups of products changed"
        return PassResult(model.after(self.step, graph), True, (note,))

    def _move(self, graph: onnx_ir.Model, chain: Chain, moments: Moments) -> bool:
        start, readers, added = chain
        weights = [reader.by_channel()[..., 0] for reader in readers]
        scales = awq_scales(weights, moments, Encoding(self.bits, self.block, self.symmetric))
        if np.all(scales == 1):
            return False
        rescale(graph, [*start.constants, *added], 1 / scales)
        rescale(graph, [reader.weight for reader in readers], scales)
        return True


def _written(node: onnx_ir.Node) -> Written | None:
    return normalized_channels(node) or product_channels(node)


def _moments(
    graph: onnx_ir.Model, found: Sequence[Chain], data: Dataset, progress: Progress
) -> Iterator[tuple[Chain, Moments]]:
    """Yield the second moments of what each chain's products read, in as few rounds of the data as memory allows."""
    inputs = from_ir(graph).inputs
    for portion in _portions(found):
        names = [chain[1][0].x.name or "" for chain in portion]
        gathered = [SecondMoment(_n_channels(chain)) for chain in portion]
        part = inner_model(graph, [spec.name for spec in inputs], [*dict.fromkeys(names)], {})
        opened = OnnxRuntime().open(from_ir(part), Target())
        with opened as session, progress.step("gathering second moments") as advance:
            for feed in feeds(data, inputs, _BATCH):
                arrays = session.run({spec.name: feed.arrays[spec.name] for spec in session.inputs})
                for name, moment in zip(names, gathered, strict=True):
                    moment.add(arrays[name])
                advance(feed.n_items)
        yield from ((chain, moment.moments()) for chain, moment in zip(portion, gathered, strict=True))


def _portions(found: Sequence[Chain]) -> Iterator[list[Chain]]:
    portion: list[Chain] = []
    for chain in found:
        if portion and sum(_n_channels(each) ** 2 for each in (*portion, chain)) > _MOST_NUMBERS:
            yield portion
            portion = []
        portion.append(chain)
    if portion:
        yield portion


def _n_channels(chain: Chain) -> int:
    return int(chain[1][0].by_channel().shape[1])
