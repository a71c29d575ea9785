"""Int8 with ranges from calibration: the graph is written with QuantizeLinear and DequantizeLinear (QDQ).

Engines merge these into integer operators; an engine that does not merge one still computes the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.graph import operator_name, quiet_libraries
from tightship.core.model import Model
from tightship.core.passes import DataNeed, Operator, PassResult, Quantizer, Statistics
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store
from tightship.errors import UnsupportedError, UsageError
from tightship.passes.biases import merge_biases
from tightship.passes.calibration import Method, observe_ranges
from tightship.passes.editing import editable, name_everything, refuse_nan, unknown_exclusions
from tightship.passes.placement import place, quantizable
from tightship.passes.qdq import Grid, write_qdq
from tightship.passes.quantize import IntegerType
from tightship.passes.upgrade import upgraded

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Int8Static"]

_FIRST_OPSET = 13
"""The first with scales per channel."""


@dataclass(frozen=True)
class Int8Static(Quantizer):
    """Quantize Conv, Gemm, MatMul and embeddings to int8 with ranges observed on calibration data.

    Weights are symmetric int8, activations 8 bits with a zero point, biases int32. What lies between convolutions
    (sums, pooling) stays in 8 bits; normalizations, Softmax, products by gates and the like stay float. The same file
    runs in integers on ONNX Runtime and on OpenVINO.

    `weight_bits` 7 keeps weights within -64..64 and is right on every processor. 8 halves the rounding error of the
    weights, but needs 8-bit dot products (AVX-VNNI, AVX512-VNNI, AMX, ARM): without, pairs of products saturate, which
    was seen to ruin a vision transformer. `attention` quantizes products of two activations as well. `ranges`
    "percentile" leaves out outliers: the range holds `percentile` percent of the values seen.
    """

    name: ClassVar[str] = "int8-static"
    data: ClassVar[DataNeed] = "calibration"

    activation: IntegerType = "uint8"
    weight_bits: Literal[7, 8] = 7
    per_channel: bool = True
    attention: bool = False
    ranges: Method = "minmax"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        for name, value, known in (
            ("activation", self.activation, ("uint8", "int8")),
            ("weight_bits", self.weight_bits, (7, 8)),
            ("ranges", self.ranges, ("minmax", "percentile")),
        ):
            if value not in known:
                raise UsageError(f"int8-static: {name} must be {known[0]} or {known[1]}, found {value!r}")
        if not 50 < self.percentile <= 100:
            raise UsageError(f"int8-static: percentile must be above 50 and at most 100, found {self.percentile}")

    def operators(self, model: Model) -> tuple[Operator, ...]:
        types = {operator_name(node): node.op_type for node in model.graph.graph}
        found = quantizable(_prepared(model), self.attention)
        return tuple(replace(entry, op_type=types.get(entry.name, entry.op_type)) for entry in found)

    def observe(
        self, model: Model, data: Dataset | None, progress: Progress = SILENT, store: Store | None = None
    ) -> Statistics:
        """Return `[low, high]` by tensor name for every tensor that any choice of `exclude` quantizes."""
        refuse_nan(model.graph)
        graph = _prepared(model)
        names = [value.name for value in place(graph, self.attention).observed()]
        if not names:
            return {}
        found = observe_ranges(graph, names, data, self.ranges, self.percentile, progress)
        return {name: np.array(bounds) for name, bounds in found.items()}

    def rewrite(self, model: Model, statistics: Statistics) -> PassResult:
        graph = _prepared(model)
        notes = unknown_exclusions(self.exclude, quantizable(graph, self.attention))
        placement = place(graph, self.attention, self.exclude)
        if not placement.slots:
            return PassResult(model, False, (*notes, "no operator is left to quantize"))
        write_qdq(graph, placement, statistics, Grid(self.activation, self.weight_bits, self.per_channel))
        return PassResult(model.after(self.step, graph), True, notes)


def _prepared(model: Model) -> onnx_ir.Model:
    """Return an editable copy with unique names, in an opset that has scales per channel, with types known.

    Raises `UnsupportedError` where the opset is older and the model cannot be brought to a newer one.
    """
    graph = editable(model)
    name_everything(graph)
    graph, notes = upgraded(graph)
    opset = graph.opset_imports.get("", _FIRST_OPSET)
    if opset < _FIRST_OPSET:
        raise UnsupportedError(
            f"int8-static needs opset {_FIRST_OPSET} or later, found {opset}, and {'; '.join(notes)}; "
            "export the model again at a newer opset"
        )
    _infer_shapes(graph)
    merge_biases(graph)
    name_everything(graph)
    return graph


def _infer_shapes(graph: onnx_ir.Model) -> None:
    """Infer shapes and types anew: what exporters wrote may be stale, and is relied upon."""
    from onnx_ir.passes.common import ShapeInferencePass

    for node in graph.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    with quiet_libraries():
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(graph)
