"""Layers that work on each element: arithmetic, comparisons, logic and functions of one value."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS"]


def _unary(kind: str) -> Build:
    return lambda net, layer: net.op(kind, layer.x)


def _binary(kind: str) -> Build:
    return lambda net, layer: net.op(kind, *layer.take(2))


def _with_alpha(kind: str) -> Build:
    """Many inputs, or one and the number alpha."""

    def build(net: Network, layer: Layer) -> onnx_ir.Value:
        values = layer.take(1, 2**16)
        if len(values) == 1:
            return net.op(kind, values[0], net.number(layer.params.alpha))
        return reduce(lambda left, right: net.op(kind, left, right), values)

    return build


def _many(kind: str) -> Build:
    return lambda net, layer: net.op(kind, *layer.take(1, 2**16))


def _compared(kind: str, negated: bool = False) -> Build:
    """Compare two inputs, or one with alpha; the result is 1.0 or 0.0."""

    def build(net: Network, layer: Layer) -> onnx_ir.Value:
        left, *rest = layer.take(1, 2)
        found = net.op(kind, left, rest[0] if rest else net.number(layer.params.alpha))
        return net.cast(net.op("Not", found) if negated else found, "float")

    return build


def _logical(kind: str, inputs: int = 2) -> Build:
    """Any number but 0 is true; the result is 1.0 or 0.0."""

    def build(net: Network, layer: Layer) -> onnx_ir.Value:
        truths = [net.cast(value, "bool") for value in layer.take(inputs)]
        return net.cast(net.op(kind, *truths), "float")

    return build


def _function(net: Network, layer: Layer) -> onnx_ir.Value:
    """A function of scale * x + shift."""
    params = layer.params
    x = layer.x
    if params.scale not in (0, 1):
        x = net.op("Mul", x, net.number(params.scale))
    if params.shift:
        x = net.op("Add", x, net.number(params.shift))
    kind = layer.choice("type")
    if kind in ("RSQRT", "INVERSE"):
        safe = net.op("Add", x, net.number(params.epsilon or 1e-6))
        return net.op("Reciprocal", net.op("Sqrt", safe) if kind == "RSQRT" else safe)
    if kind in ("POWER", "THRESHOLD"):
        return net.op("Pow" if kind == "POWER" else "Max", x, net.number(params.alpha))
    return net.op({"SQRT": "Sqrt", "EXP": "Exp", "LOG": "Log", "ABS": "Abs"}[kind], x)


def _clip(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.op("Clip", layer.x, net.number(layer.params.minVal), net.number(layer.params.maxVal))


def _exp2(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.op("Pow", net.number(2), layer.x)


def _floor_div(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.op("Floor", net.op("Div", *layer.take(2)))


def _mod(net: Network, layer: Layer) -> onnx_ir.Value:
    """The remainder with the divisor's sign: C's remainder, plus the divisor where the signs differ."""
    left, right = layer.take(2)
    rest = net.op("Mod", left, right, fmod=1)
    differs = net.op("Less", net.op("Mul", rest, net.op("Sign", right)), net.number(0))
    return net.op("Where", differs, net.op("Add", rest, right), rest)


def _where(net: Network, layer: Layer) -> onnx_ir.Value:
    condition, yes, no = layer.take(3)
    return net.op("Where", net.cast(condition, "bool"), yes, no)


def _scale(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    scaled = net.op("Mul", layer.x, _broadcast(net, layer, "scale", [int(size) for size in params.shapeScale]))
    if not params.hasBias:
        return scaled
    return net.op("Add", scaled, _broadcast(net, layer, "bias", [int(size) for size in params.shapeBias]))


def _bias(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.op("Add", layer.x, _broadcast(net, layer, "bias", [int(size) for size in layer.params.shape]))


def _broadcast(net: Network, layer: Layer, field: str, shape: list[int]) -> onnx_ir.Value:
    """Return [1], [C], [1, H, W] or [C, H, W] in a shape that broadcasts against [.., C, H, W]."""
    values: np.ndarray = layer.weight(field, shape)
    return net.constant(values.reshape(-1, 1, 1) if len(shape) == 1 else values, f"{layer.name}/{field}")


def _dot(net: Network, layer: Layer) -> onnx_ir.Value:
    left, right = layer.take(2)
    if layer.params.cosineSimilarity:
        left, right = (net.op("Div", each, net.op("ReduceL2", each, net.ints([-3]))) for each in (left, right))
    return net.op("ReduceSum", net.op("Mul", left, right), net.ints([-3]))


_SAME_IN_ONNX = (
    *("Ceil", "Floor", "Sign", "Round", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan"),
    *("Sinh", "Cosh", "Tanh", "Asinh", "Acosh", "Atanh", "Erf"),
)

LAYERS: dict[str, Build] = {
    **{kind.lower(): _unary(kind) for kind in _SAME_IN_ONNX},
    "add": _with_alpha("Add"),
    "multiply": _with_alpha("Mul"),
    "average": _many("Mean"),
    "max": _many("Max"),
    "min": _many("Min"),
    "scale": _scale,
    "bias": _bias,
    "dot": _dot,
    "unary": _function,
    "clip": _clip,
    "exp2": _exp2,
    "equal": _compared("Equal"),
    "notEqual": _compared("Equal", negated=True),
    "lessThan": _compared("Less"),
    "lessEqual": _compared("LessOrEqual"),
    "greaterThan": _compared("Greater"),
    "greaterEqual": _compared("GreaterOrEqual"),
    "logicalOr": _logical("Or"),
    "logicalXor": _logical("Xor"),
    "logicalAnd": _logical("And"),
    "logicalNot": _logical("Not", inputs=1),
    "modBroadcastable": _mod,
    "minBroadcastable": _binary("Min"),
    "maxBroadcastable": _binary("Max"),
    "addBroadcastable": _binary("Add"),
    "powBroadcastable": _binary("Pow"),
    "divideBroadcastable": _binary("Div"),
    "floorDivBroadcastable": _floor_div,
    "multiplyBroadcastable": _binary("Mul"),
    "subtractBroadcastable": _binary("Sub"),
    "whereBroadcastable": _where,
}
