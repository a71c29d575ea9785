"""Weights at 8 or 4 bits, activations as they are: small files, and quick products of few rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tightship.core.dataset import Dataset
from tightship.core.model import Model
from tightship.core.passes import DataNeed, Operator, PassResult, Quantizer, Statistics
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store
from tightship.errors import UsageError
from tightship.passes.codable import coded_operators
from tightship.passes.coded_weights import CodedWeight, WeightWriter, coded_arrays
from tightship.passes.editing import editable, name_everything, unknown_exclusions
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.encoding import Encoding

__all__ = ["WeightOnly"]

_BITS = (4, 8)
_BLOCKS = (32, 64, 128)


@dataclass(frozen=True)
class WeightOnly(Quantizer):
    """Store the weights of MatMul, Gemm and embeddings at 4 or 8 bits, rounded to nearest in blocks.

    Every `block` weights that meet the same output share a float32 scale and, unless `symmetric`, a zero point. At 4
    bits the range of a block is the best of a few by squared error. Needs no data. The operators are
    `com.microsoft.MatMulNBits` and `GatherBlockQuantized`: one file runs in ONNX Runtime, which rounds activations to
    int8 inside the product (relative error 5e-3), and in OpenVINO, which does not.

    Bytes per weight: 0.53-0.64 at 4 bits, 1.03-1.16 at 8, the less the larger the block. Weights are off by about 8 %
    (block 32) to 10 % (128) at 4 bits and 0.5 % at 8; symmetric blocks add a twentieth to that.

    Speed against float32 on ONNX Runtime, one core with AVX2 only, two square products: at one row 4 bits 2.3-3.2
    times (width 1024) and 4.0-4.5 (4096), 8 bits 2.3 and 2.6-2.9; at 16 rows 1.0-1.6 and 0.9; at 128 rows 0.9-1.1 and
    0.6. OpenVINO gains at one row and width 4096 only (1.7-1.9). So this is for decoding and for size, not for many
    rows.
    """

    name: ClassVar[str] = "weight-only"
    data: ClassVar[DataNeed] = "none"

    bits: Literal[4, 8] = 4
    block: Literal[32, 64, 128] = 32
    symmetric: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("bits", self.bits, _BITS), ("block", self.block, _BLOCKS)):
            if value not in known:
                raise UsageError(f"weight-only: {name} must be one of {', '.join(map(str, known))}, found {value}")

    def operators(self, model: Model) -> tuple[Operator, ...]:
        return tuple(target.operator for target in coded_operators(model.graph, self.block))

    def observe(
        self, model: Model, data: Dataset | None, progress: Progress = SILENT, store: Store | None = None
    ) -> Statistics:
        return {}

    def rewrite(self, model: Model, statistics: Statistics) -> PassResult:
        notes = unknown_exclusions(self.exclude, self.operators(model))
        graph = editable(model)
        chosen = [target for target in coded_operators(graph, self.block) if target.name not in self.exclude]
        if not chosen:
            return PassResult(model, False, notes)
        writer, encoding = WeightWriter(graph), Encoding(self.bits, self.block, self.symmetric)
        rounded: dict[tuple[str, bool], CodedWeight] = {}
        for target in chosen:
            if target.key not in rounded:
                rows = target.rows()
                rounded[target.key] = CodedWeight.of(
                    coded_arrays(quantize_blocks(rows, encoding), encoding, rows.shape[1])
                )
            target.write(writer, rounded[target.key])
        name_everything(graph)
        return PassResult(model.after(self.step, graph), True, notes)
