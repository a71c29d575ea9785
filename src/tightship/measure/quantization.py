"""How a model is quantized already, read from its operators: which numbers are rounded, to what, and how it is written.

weights only    MatMulNBits, or DequantizeLinear(codes) in front of a product
embeddings      GatherBlockQuantized, or DequantizeLinear(codes) in front of Gather
QDQ             QuantizeLinear -> DequantizeLinear around float operators; quantized TFLite reads as this
QOperator       QLinearConv and the like: integers in, integers out
dynamic         ranges of activations are found at every run: MatMulInteger, DynamicQuantizeLinear
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tightship.core.graph import QUANTIZED_BY

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Quantized", "quantized_operators"]

Way = Literal["weights only", "embeddings", "QDQ", "QOperator", "dynamic"]

_MOVING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_DYNAMIC = frozenset(
    {"ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
)
_STEPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_BIAS = "int32"


@dataclass(frozen=True)
class Quantized:
    """Operators that are quantized in one way: how many, and the types or bits of what they read.

    `by` names the method where the model's file tells.
    """

    way: Way
    encoding: str
    n_operators: int
    by: str = ""

    def __str__(self) -> str:
        by = f", by {self.by}" if self.by else ""
        return f"{self.way}: {self.encoding} ({self.n_operators} operator{'s' * (self.n_operators != 1)}{by})"


def quantized_operators(graph: onnx_ir.Model) -> tuple[Quantized, ...]:
    """Return how the operators of a graph are quantized, the most frequent way first; empty where none is."""
    ways = [way for node in graph.graph.all_nodes() if (way := _way(node)) is not None]
    around = [kinds for way, kinds in ways if way == "QDQ"]
    found: Counter[tuple[Way, str]] = Counter(
        (way, " and ".join(kinds) or "8 bits") for way, kinds in ways if way != "QDQ"
    )
    if around:  # told together: some read activations only, some weights too
        found["QDQ", ", ".join(sorted({kind for kinds in around for kind in kinds}))] = len(around)
    by = graph.metadata_props.get(QUANTIZED_BY, "")
    return tuple(Quantized(way, encoding, count, by) for (way, encoding), count in found.most_common())


def _way(node: onnx_ir.Node) -> tuple[Way, tuple[str, ...]] | None:
    """How a node is quantized, and the types that it reads; None where it is not, or only moves or rounds numbers."""
    if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
        bits, block = _number(node, "bits", 4), _number(node, "block_size", 128)
        return "weights only" if node.op_type == "MatMulNBits" else "embeddings", (f"{bits} bits in blocks of {block}",)
    if node.op_type.startswith("QLinear") or node.op_type == "QGemm":
        return "QOperator", _constant_types(node)
    if node.op_type in _DYNAMIC:
        return "dynamic", _constant_types(node)
    return None if node.op_type in _STEPS or node.op_type in _MOVING else _around(node)


def _around(node: onnx_ir.Node) -> tuple[Way, tuple[str, ...]] | None:
    """What DequantizeLinear in front of an operator says of it."""
    read = [found for value in node.inputs if value is not None and (found := _dequantized(value)) is not None]
    activations = {f"{kind} activations" for constant, kind in read if not constant}
    weights = {kind for constant, kind in read if constant and kind != _BIAS}
    if activations:
        return "QDQ", (*activations, *(f"{kind} weights" for kind in weights))
    if weights:
        return "embeddings" if node.op_type == "Gather" else "weights only", tuple(sorted(weights))
    return None


def _dequantized(value: onnx_ir.Value) -> tuple[bool, str] | None:
    """Whether a value stands for a constant, and its type, where it comes out of DequantizeLinear."""
    node = value.producer()
    while node is not None and node.op_type in _MOVING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    codes = node.inputs[0]
    maker = codes.producer()
    source = maker.inputs[0] if maker is not None and maker.op_type == "QuantizeLinear" else codes
    constant = source is not None and _type(source) is not None
    kind = _type(codes) or next((kind for point in node.inputs[2:] if point is not None and (kind := _type(point))), "")
    block = _number(node, "block_size", 0)
    return constant, (kind or "uint8") + (f" in blocks of {block}" if block else "")


def _constant_types(node: onnx_ir.Node) -> tuple[str, ...]:
    kinds = {kind for value in node.inputs if value is not None and (kind := _type(value)) is not None}
    return tuple(sorted(kinds - {_BIAS, "float32"}))


def _type(value: onnx_ir.Value) -> str | None:
    """The element type of a constant, None for what is computed."""
    if value.const_value is not None:
        return _name(value.const_value.dtype)
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return _name(node.attributes["value"].as_tensor().dtype)
    return None


def _name(dtype: onnx_ir.DataType) -> str:
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, str(dtype.name).lower())


def _number(node: onnx_ir.Node, name: str, default: int) -> int:
    return int(node.attributes.get_int(name, default) or default)
