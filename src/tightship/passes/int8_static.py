"""Int8 with ranges from calibration: the graph is written with QuantizeLinear and DequantizeLinear (QDQ).

Engines merge these into integer operators; an engine that does not merge one still computes the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.graph import from_ir, operator_name
from tightship.core.model import Model
from tightship.core.opset import at_opset
from tightship.core.passes import DataNeed, Operator, PassResult, Quantizer, Statistics
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store
from tightship.errors import UnsupportedError, UsageError
from tightship.passes.affine import merge_affine
from tightship.passes.bias_correction import ROUNDINGS, Corrections, Rounding
from tightship.passes.biases import give_biases, merge_biases
from tightship.passes.calibration import observe_ranges
from tightship.passes.editing import deep_copy, editable, infer_shapes, name_everything, refuse_nan, unknown_exclusions
from tightship.passes.histogram import METHODS, Method
from tightship.passes.placement import place, quantizable
from tightship.passes.products import last_products
from tightship.passes.qdq import Grid, write_qdq
from tightship.passes.quantize import IntegerType
from tightship.passes.upgrade import upgraded

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Int8Static"]

_FIRST_OPSET = 13
"""The first with scales per channel."""

_PACKED_BITS, _OPSET_OF_INT4 = 4, 21


@dataclass(frozen=True)
class Int8Static(Quantizer):
    """Quantize Conv, Gemm, MatMul and embeddings to int8 with ranges observed on calibration data.

    Weights are symmetric int8, activations 8 bits with a zero point, biases int32. What lies between convolutions
    (sums, pooling) stays in 8 bits; normalizations, Softmax, products by gates and the like stay float. The same file
    runs in integers on ONNX Runtime and on OpenVINO.

    `weight_bits` 7 keeps weights within -64..64 and is right on every processor. 8 halves the rounding error of the
    weights, but needs 8-bit dot products (AVX-VNNI, AVX512-VNNI, AMX, ARM): without, pairs of products saturate, which
    was seen to ruin a vision transformer. 4 bits halve the file; engines widen them to 8 as they load it, convolutions
    too, so that they cost accuracy and gain no time. `attention` quantizes products of two activations as well.
    `symmetric` puts the zero of activations that may be negative in the middle.

    `ranges`: "minmax", "percentile" (holds `percentile` percent of the values), "mse" (least squared error) or
    "entropy" (least divergence). `rounding` "gptq" chooses codes of weights for the outputs of each operator, from the
    front, on up to 128 items; "adaround" learns them (needs PyTorch). `correct_biases` takes the mean error of each
    channel out of its bias. Ranges by least squares pay together with these two: measured, the three gain 2 to 5 dB.
    """

    name: ClassVar[str] = "int8-static"
    data: ClassVar[DataNeed] = "calibration"

    activation: IntegerType = "uint8"
    symmetric: bool = False
    weight_bits: Literal[4, 7, 8] = 7
    per_channel: bool = True
    attention: bool = False
    ranges: Method = "minmax"
    percentile: float = 99.99
    rounding: Rounding = "nearest"
    correct_biases: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("activation", self.activation, ("uint8", "int8")),
            ("weight_bits", self.weight_bits, (4, 7, 8)),
            ("ranges", self.ranges, METHODS),
            ("rounding", self.rounding, ROUNDINGS),
        ):
            if value not in known:
                *others, last = map(str, known)
                raise UsageError(f"int8-static: {name} must be {', '.join(others)} or {last}, found {value!r}")
        if not 50 < self.percentile <= 100:
            raise UsageError(f"int8-static: percentile must be above 50 and at most 100, found {self.percentile}")

    def operators(self, model: Model) -> tuple[Operator, ...]:
        types = {operator_name(node): node.op_type for node in model.graph.graph}
        found = quantizable(self._prepared(model), self.attention)
        return tuple(replace(entry, op_type=types.get(entry.name, entry.op_type)) for entry in found)

    def observe(
        self, model: Model, data: Dataset | None, progress: Progress = SILENT, store: Store | None = None
    ) -> Statistics:
        """Return `[low, high]` by tensor name for every tensor that any choice of `exclude` quantizes."""
        refuse_nan(model.graph)
        graph = self._prepared(model)
        names = [value.name for value in place(graph, self.attention).observed()]
        if not names:
            return {}
        ranges = observe_ranges(graph, names, data, self.ranges, self.percentile, self.symmetric, progress)
        found = {name: np.array(bounds) for name, bounds in ranges.items()}
        if data is not None and (self.correct_biases or self.rounding != "nearest"):
            coded = deep_copy(graph)
            placement = place(coded, self.attention)
            write_qdq(coded, placement, found, self._grid)
            for each in (graph, coded):
                infer_shapes(each)
            corrections = Corrections(self.rounding, self.correct_biases, self.weight_bits)
            found |= corrections.observe(graph, coded, placement, data, progress)
        return found

    def rewrite(self, model: Model, statistics: Statistics) -> PassResult:
        graph = self._prepared(model)
        notes = unknown_exclusions(self.exclude, quantizable(graph, self.attention))
        placement = place(graph, self.attention, self.exclude)
        if not placement.slots:
            return PassResult(model, False, (*notes, "no operator is left to quantize"))
        packed = self.weight_bits == _PACKED_BITS
        write_qdq(graph, placement, statistics, replace(self._grid, packed=packed))
        if packed:
            notes = (*notes, "weights are stored in 4 bits and computed with in 8: they take less room, not less time")
        return PassResult(model.after(self.step, graph), True, notes)

    @property
    def _grid(self) -> Grid:
        return Grid(self.activation, self.weight_bits, self.per_channel, self.symmetric)

    def _prepared(self, model: Model) -> onnx_ir.Model:
        graph = _prepared(model)
        if self.weight_bits == _PACKED_BITS:
            graph = at_opset(from_ir(graph), max(_OPSET_OF_INT4, graph.opset_imports.get("", _OPSET_OF_INT4))).graph
            infer_shapes(graph)
        if self.correct_biases:
            give_biases(graph)
        return graph


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
    infer_shapes(graph)
    merge_affine(graph)
    merge_biases(graph)
    last_products(graph)
    name_everything(graph)
    return graph
