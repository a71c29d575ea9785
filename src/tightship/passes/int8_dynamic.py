"""Int8 products whose activations are quantized while the model runs, so that no calibration data is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

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

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Int8Dynamic"]

_CONTRIB = "com.microsoft"

_FIRST_OPSET = 11
"""The first with DynamicQuantizeLinear."""

_LARGEST_CODE = {7: 64, 8: 127}
"""Two products of an activation (at most 255) and a weight of 64 fit 16 bits: 2 * 255 * 64 = 32640."""


@dataclass(frozen=True)
class Int8Dynamic(Quantizer):
    """Quantize MatMul, Gemm and LSTM to int8, their activations afresh at every run.

    Weights are int8 with one scale per output channel; activations uint8 with one scale and zero point per tensor.
    Needs no data. Products are written in standard operators, which ONNX Runtime merges into one
    (DynamicQuantizeMatMul, MatMulIntegerToFloat); LSTMs become `com.microsoft.DynamicQuantizeLSTM`. Convolutions
    stay: quantized this way they get slower.

    `weight_bits` 7 keeps weights within -64..64 and is right on every processor. 8 halves the rounding error of the
    weights, but needs 8-bit dot products (AVX-VNNI, AVX512-VNNI, AMX, ARM): with AVX2 alone ONNX Runtime lets pairs of
    products saturate at 16 bits, which was seen to cost 15 % error in a product and 19 % in an LSTM (7 bits: 2 % at
    most).

    Speed against float32 on ONNX Runtime, one core with AVX2 only: two 1024 x 1024 products 2.7 times at one row,
    1.7 at 128 rows; a 2-layer LSTM of 256 units 2.4 times at batch 1, 1.3 at batch 16. With AMX an LSTM reached 5.6.
    OpenVINO computes the same, at the speed of its float32 or less.
    """

    name: ClassVar[str] = "int8-dynamic"
    data: ClassVar[DataNeed] = "none"

    weight_bits: Literal[7, 8] = 7

    def __post_init__(self) -> None:
        if self.weight_bits not in _LARGEST_CODE:
            raise UsageError(f"int8-dynamic: weight_bits must be 7 or 8, found {self.weight_bits}")

    def operators(self, model: Model) -> tuple[Operator, ...]:
        return tuple(target.operator for target in _targets(model.graph))

    def observe(
        self, model: Model, data: Dataset | None, progress: Progress = SILENT, store: Store | None = None
    ) -> Statistics:
        return {}

    def rewrite(self, model: Model, statistics: Statistics) -> PassResult:
        notes = unknown_exclusions(self.exclude, self.operators(model))
        if model.graph.opset_imports.get("", 0) < _FIRST_OPSET:
            notes += (f"MatMul and Gemm stay: they need opset {_FIRST_OPSET} or later; apply simplify first",)
        graph = editable(model)
        chosen = [target for target in _targets(graph) if target.name not in self.exclude]
        if not chosen:
            return PassResult(model, False, notes)
        rewriting = _Rewriting(graph, _LARGEST_CODE[self.weight_bits])
        for target in chosen:
            if isinstance(target, Linear):
                rewriting.linear(target)
            else:
                rewriting.lstm(target)
        name_everything(graph)
        return PassResult(model.after(self.step, graph), True, notes)


@dataclass(frozen=True)
class _Lstm:
    """An LSTM with constant weights: input weights `[directions, 4H, I]`, recurrent ones `[directions, 4H, H]`."""

    node: onnx_ir.Node

    @property
    def name(self) -> str:
        return operator_name(self.node)

    @property
    def weights(self) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        return self.node.inputs[1], self.node.inputs[2]

    @property
    def operator(self) -> Operator:
        return Operator(self.name, "LSTM", sum(known_constant(value).nbytes for value in self.weights))


def _targets(graph: onnx_ir.Model) -> Iterator[Linear | _Lstm]:
    linear = {}
    if graph.opset_imports.get("", 0) >= _FIRST_OPSET:
        linear = {target.node: target for target in linear_operators(graph)}
    for node in graph.graph:
        if node in linear:
            yield linear[node]
        elif _is_quantizable_lstm(node):
            yield _Lstm(node)


def _is_quantizable_lstm(node: onnx_ir.Node) -> bool:
    import onnx_ir

    if (node.op_type, node.domain) != ("LSTM", "") or node.attributes.get_int("layout", 0):
        return False
    weights = [constant(value) for value in node.inputs[1:3]]
    if any(weight is None or weight.dtype != onnx_ir.DataType.FLOAT for weight in weights):
        return False
    return bool(sum(weight.nbytes for weight in weights if weight is not None) >= LEAST_WEIGHT_BYTES)


class _Rewriting:
    """Rewrites operators of one graph; an activation or weight that several of them read is quantized once."""

    def __init__(self, graph: onnx_ir.Model, largest_code: int) -> None:
        self._graph = graph
        self._largest_code = largest_code
        self._activations: dict[onnx_ir.Value, onnx_ir.Node] = {}
        self._weights: dict[tuple[onnx_ir.Value, bool], tuple[onnx_ir.Value, onnx_ir.Value]] = {}

    def linear(self, target: Linear) -> None:
        """Write `y = float(int(x) @ int(w)) * (scale_x * scale_w) + bias`.

        x -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul -> Add -> y
        """
        import onnx_ir

        name = target.name
        codes, scales = self._quantized(target)
        new = [] if target.x in self._activations else [self._quantize_input(target)]
        x, x_scale, x_zero = self._activations[target.x].outputs
        product = onnx_ir.node("MatMulInteger", [x, codes, x_zero], name=name)
        cast = onnx_ir.node("Cast", product.outputs, {"to": onnx_ir.DataType.FLOAT}, name=f"{name}/cast")
        scale = onnx_ir.node("Mul", [x_scale, scales], name=f"{name}/scale")
        last = onnx_ir.node("Mul", [cast.outputs[0], scale.outputs[0]], name=f"{name}/dequantize")
        new += [product, cast, scale, last]
        if target.bias is not None:
            last = onnx_ir.node("Add", [last.outputs[0], target.bias], name=f"{name}/bias")
            new.append(last)
        for value in (node.outputs[0] for node in new[:-1]):
            value.name = value.name or value.producer().name
        replace(target.node, new, last.outputs)

    def _quantize_input(self, target: Linear) -> onnx_ir.Node:
        import onnx_ir

        node = onnx_ir.node("DynamicQuantizeLinear", [target.x], num_outputs=3, name=f"{target.name}/quantize")
        for value, part in zip(node.outputs, ("quantized", "scale", "zero_point"), strict=True):
            value.name = f"{target.x.name}_{part}"
        self._activations[target.x] = node
        return node

    def lstm(self, target: _Lstm) -> None:
        """Write the LSTM as DynamicQuantizeLSTM, whose weights are `[directions, I, 4H]` with scales per column."""
        import onnx_ir

        node = target.node
        (w, w_scale), (r, r_scale) = (self._lstm_weight(value) for value in target.weights)
        rest = [*node.inputs[3:8], *[None] * (8 - len(node.inputs))]
        inputs = [node.inputs[0], w, r, *rest, w_scale, self._zeros(w_scale), r_scale, self._zeros(r_scale)]
        attributes = {key: value for key, value in node.attributes.items() if key != "layout"}
        attributes["hidden_size"] = onnx_ir.AttrInt64("hidden_size", r.shape[1])
        self._graph.opset_imports.setdefault(_CONTRIB, 1)
        new = onnx_ir.Node(
            _CONTRIB,
            "DynamicQuantizeLSTM",
            inputs,
            attributes.values(),
            num_outputs=len(node.outputs),
            name=target.name,
        )
        replace(node, [new], new.outputs)

    def _quantized(self, target: Linear) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        key = (target.weight, target.transposed)
        if key not in self._weights:
            codes, scales = _quantize_columns(target.read(), self._largest_code)
            self._weights[key] = self._stored(target.weight, codes, scales)
        return self._weights[key]

    def _lstm_weight(self, value: onnx_ir.Value) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        key = (value, True)
        if key not in self._weights:
            codes, scales = _quantize_columns(weight_array(value).transpose(0, 2, 1), self._largest_code)
            self._weights[key] = self._stored(value, codes, scales)
        return self._weights[key]

    def _stored(
        self, value: onnx_ir.Value, codes: np.ndarray, scales: np.ndarray
    ) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        return (
            add_constant(self._graph, f"{value.name}_int8", codes),
            add_constant(self._graph, f"{value.name}_scale", scales),
        )

    def _zeros(self, scales: onnx_ir.Value) -> onnx_ir.Value:
        return add_constant(self._graph, f"{scales.name}_zero", np.zeros(scales.shape.numpy(), np.int8))


def _quantize_columns(weight: np.ndarray, largest_code: int) -> tuple[np.ndarray, np.ndarray]:
    """Round `[..., K, N]` to int8 codes with one scale `[..., N]` per column: `weight = codes * scales`."""
    largest = np.maximum(weight.max(axis=-2), -weight.min(axis=-2))
    scales = (largest / largest_code).astype(np.float32)
    # A column of zeros, or of numbers too small to divide by, becomes zeros.
    scales[scales < np.finfo(np.float32).tiny] = 1
    codes = np.rint(weight / scales[..., None, :])
    return np.clip(codes, -largest_code, largest_code, out=codes).astype(np.int8, order="C"), scales
