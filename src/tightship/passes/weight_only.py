"""Weights at 8 or 4 bits, activations as they are: small files, and quick products of few rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tightship.core.dataset import Dataset
from tightship.core.graph import operator_name
from tightship.core.model import Model
from tightship.core.passes import DataNeed, Operator, PassResult, Quantizer, Statistics
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store
from tightship.errors import UsageError
from tightship.passes.editing import (
    add_constant,
    constant,
    editable,
    known_constant,
    name_everything,
    replace,
    unknown_exclusions,
    weight_array,
)
from tightship.passes.linear import LEAST_WEIGHT_BYTES, Linear, linear_operators
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.encoding import Encoding
from tightship.rounding.packing import pack

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir

__all__ = ["WeightOnly"]

_CONTRIB = "com.microsoft"

_INT8_ACTIVATIONS = 4
"""`accuracy_level` of MatMulNBits. Unless it is written, 2- and 8-bit products run ten times slower than float32."""

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
        return tuple(target.operator for target in _targets(model.graph, self.block))

    def observe(
        self, model: Model, data: Dataset | None, progress: Progress = SILENT, store: Store | None = None
    ) -> Statistics:
        return {}

    def rewrite(self, model: Model, statistics: Statistics) -> PassResult:
        notes = unknown_exclusions(self.exclude, self.operators(model))
        graph = editable(model)
        chosen = [target for target in _targets(graph, self.block) if target.name not in self.exclude]
        if not chosen:
            return PassResult(model, False, notes)
        rewriting = _Rewriting(graph, self)
        for target in chosen:
            if isinstance(target, Linear):
                rewriting.linear(target)
            else:
                rewriting.embedding(target)
        graph.opset_imports.setdefault(_CONTRIB, 1)
        name_everything(graph)
        return PassResult(model.after(self.step, graph), True, notes)


@dataclass(frozen=True)
class _Embedding:
    """Rows of a constant float32 matrix `[V, D]`, looked up by Gather."""

    node: onnx_ir.Node

    @property
    def name(self) -> str:
        return operator_name(self.node)

    @property
    def weight(self) -> onnx_ir.Value:
        return self.node.inputs[0]

    @property
    def operator(self) -> Operator:
        return Operator(self.name, "Gather", known_constant(self.weight).nbytes)


def _targets(graph: onnx_ir.Model, block: int) -> Iterator[Linear | _Embedding]:
    linear = {target.node: target for target in linear_operators(graph)}
    for node in graph.graph:
        if node in linear:
            yield linear[node]
        elif _is_embedding(node, block):
            yield _Embedding(node)


def _is_embedding(node: onnx_ir.Node, block: int) -> bool:
    import onnx_ir

    if (node.op_type, node.domain) != ("Gather", "") or node.attributes.get_int("axis", 0):
        return False
    weight = constant(node.inputs[0])
    if weight is None or weight.dtype != onnx_ir.DataType.FLOAT or len(weight.shape) != 2:
        return False
    # GatherBlockQuantized has no way to say that the last block of a row is not full.
    return bool(weight.nbytes >= LEAST_WEIGHT_BYTES and weight.shape[1] % block == 0)


class _Rewriting:
    """Rewrites operators of one graph; a weight that several of them read in the same way is stored once."""

    def __init__(self, graph: onnx_ir.Model, settings: WeightOnly) -> None:
        self._graph = graph
        self._settings = settings
        self._stored: dict[tuple[onnx_ir.Value, bool, str], tuple[onnx_ir.Value, ...]] = {}

    def linear(self, target: Linear) -> None:
        """Write `y = x @ dequantize(codes, scales, zeros) + bias`.

        x -> MatMulNBits -> Add -> y; codes are uint8 `[N, K / block, block * bits / 8]`.
        """
        import onnx_ir

        weight = target.read()
        key = (target.weight, target.transposed, "MatMulNBits")
        if key not in self._stored:
            self._stored[key] = self._quantized(target.weight, weight.T, flat=False)
        attributes = {
            "K": weight.shape[0],
            "N": weight.shape[1],
            "bits": self._settings.bits,
            "block_size": self._settings.block,
            "accuracy_level": _INT8_ACTIVATIONS,
        }
        inputs = [target.x, *self._stored[key]]
        product = onnx_ir.node("MatMulNBits", inputs, attributes, domain=_CONTRIB, name=target.name)
        new = [product]
        if target.bias is not None:
            product.outputs[0].name = f"{target.name}/product"
            new.append(onnx_ir.node("Add", [product.outputs[0], target.bias], name=f"{target.name}/bias"))
        replace(target.node, new, new[-1].outputs)

    def embedding(self, target: _Embedding) -> None:
        """Write `y = dequantize(codes[indices], scales[indices], zeros[indices])` as one GatherBlockQuantized."""
        import onnx_ir

        key = (target.weight, False, "GatherBlockQuantized")
        if key not in self._stored:
            self._stored[key] = self._quantized(target.weight, weight_array(target.weight), flat=True)
        codes, *rest = self._stored[key]
        attributes = {
            "bits": self._settings.bits,
            "block_size": self._settings.block,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        inputs = [codes, target.node.inputs[1], *rest]
        new = onnx_ir.node("GatherBlockQuantized", inputs, attributes, domain=_CONTRIB, name=target.name)
        replace(target.node, [new], new.outputs)

    def _quantized(self, value: onnx_ir.Value, rows: np.ndarray, flat: bool) -> tuple[onnx_ir.Value, ...]:
        """Store `rows` `[N, K]` as codes, scales and, unless symmetric, zero points."""
        settings = self._settings
        found = quantize_blocks(rows, Encoding(settings.bits, settings.block, settings.symmetric))
        codes = pack(found.codes, settings.bits)
        stored = [
            add_constant(self._graph, f"{value.name}_codes", codes.reshape(len(codes), -1) if flat else codes),
            add_constant(self._graph, f"{value.name}_scales", found.scales),
        ]
        if not settings.symmetric:
            zero_points = pack(found.zero_points, settings.bits)
            stored.append(add_constant(self._graph, f"{value.name}_zero_points", zero_points))
        return tuple(stored)
