"""Which values an input takes, read from what the graph does with it.

An index must stay below the rows of the table it looks up; an image that the graph divides by 255 runs to 255.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tightship.core.specs import TensorSpec
from tightship.measure.shapes import Shape

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Values", "values_of_example", "values_of_input"]

Kind = Literal["normal", "uniform", "integers", "mask", "positions", "words"]

_SMALL_COUNT = 10
_LONGEST = 16
_PIXEL_SCALE = 16.0

_KEEPS_VALUES = frozenset(
    {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_JOINS_VALUES = frozenset({"Concat", "Where"})
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_DATA_AND_INDICES = {
    "Gather": (0, 1),
    "GatherElements": (0, 1),
    "GatherND": (0, 1),
    "ScatterElements": (0, 1),
    "ScatterND": (0, 1),
}
"""Positions of the table and of the indices into it."""

_TABLES_BY_POSITION = {"EmbedLayerNormalization": {0: 2, 1: 3}, "GatherBlockQuantized": {1: 0}}


@dataclass(frozen=True)
class Values:
    """What is drawn for one input.

    `normal` has mean `low` and standard deviation `high`; `uniform` and `integers` run from `low` to `high`, the
    latter inclusive; `mask` is ones up to a random length of the last axis; `positions` counts along the last axis.
    """

    kind: Kind
    low: float = 0.0
    high: float = 1.0

    def draw(self, random: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> np.ndarray:
        """Draw an array with the items along axis 0."""
        if self.kind == "normal":
            return (random.standard_normal(shape, np.float32) * self.high + self.low).astype(dtype)
        if self.kind == "uniform":
            return random.uniform(self.low, self.high, shape).astype(dtype)
        if self.kind == "integers":
            return random.integers(int(self.low), int(self.high), shape, endpoint=True).astype(dtype)
        if self.kind == "positions":
            return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
        if self.kind == "words":
            return random.choice(np.array(["a", "good", "day", "is", "not", "far"], dtype=object), shape)
        return _valid_lengths(random, shape).astype(dtype)


def values_of_input(value: onnx_ir.Value, spec: TensorSpec, shapes: Mapping[str, Shape]) -> Values:
    """Choose the values for one input of a graph. `shapes` are those of the graph's values, as far as they are known.

    Indices are followed to the tables they look up. What no table bounds goes by its name (masks, token types,
    positions, lengths) or its type: whole numbers 0 to 9, bytes over their range, floats standard normal, or such that
    they are standard normal after the shift and scale that the graph begins with.
    """
    if spec.dtype == "str":
        return Values("words")
    kind = np.dtype(spec.dtype).kind if spec.dtype != "bfloat16" else "f"
    if kind in "iuf":  # Keras' Embedding takes its indices as floats
        window = _index_window(value, shapes)
        if window is not None:
            return Values("integers", *window)
    return _by_name(spec) or (_float_values(value) if kind == "f" else _integer_values(spec.dtype))


def values_of_example(example: np.ndarray, spec: TensorSpec, n_rows: int | None) -> Values:
    """Choose values like those of an example input; `n_rows` bounds indices where the example shows one value only."""
    if example.dtype.kind in "iub":
        low, high = (int(example.min()), int(example.max())) if example.size else (0, 0)
        if low == high and "mask" not in spec.name.lower() and n_rows:
            return Values("integers", 0, n_rows - 1)
        return Values("integers", low, high)
    finite = example[np.isfinite(example)].astype(np.float64)
    if not finite.size or finite.min() == finite.max():
        return Values("normal")
    if finite.min() >= 0:
        return Values("uniform", float(finite.min()), float(finite.max()))
    return Values("normal", float(finite.mean()), float(finite.std()))


def _valid_lengths(random: np.random.Generator, shape: Shape) -> np.ndarray:
    length = shape[-1] if len(shape) > 1 else 1
    n_valid = random.integers((length + 1) // 2, length, (shape[0], *(1,) * (len(shape) - 1)), endpoint=True)
    return np.broadcast_to(np.arange(length) < n_valid if len(shape) > 1 else n_valid > 0, shape)


def _by_name(spec: TensorSpec) -> Values | None:
    name = spec.name.lower()
    if "mask" in name:
        return Values("mask")
    if spec.dtype not in ("int32", "int64"):
        return None
    if "token_type" in name or "segment" in name:
        return Values("integers", 0, 1)
    if "position" in name:
        return Values("positions")
    return Values("integers", 1, _LONGEST) if "len" in name else None


def _integer_values(dtype: str) -> Values:
    if dtype == "bool":
        return Values("integers", 0, 1)
    if dtype in ("int8", "uint8"):
        limits = np.iinfo(dtype)
        return Values("integers", limits.min, limits.max)
    return Values("integers", 0, _SMALL_COUNT - 1)


def _index_window(value: onnx_ir.Value, shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    """Return the least and the largest index that every table looked up with `value` has a row for."""
    windows = list(_windows(value, shapes))
    if not windows:
        return None
    low = max(window[0] for window in windows)
    return low, max(low, min(window[1] for window in windows))


def _windows(value: onnx_ir.Value, shapes: Mapping[str, Shape]) -> Iterator[tuple[int, int]]:
    # What reaches a table is x + c for c within low_shift..high_shift: it has rows for x from -low_shift on.
    waiting, seen = [(value, 0, 0)], set()
    while waiting:
        value, low_shift, high_shift = waiting.pop()
        for node, position in value.uses():
            if node in seen:
                continue
            seen.add(node)
            n_rows = _rows_looked_up(node, position, shapes)
            shift = _shift(node, position)
            if n_rows is not None:
                yield -low_shift, n_rows - 1 - high_shift
            elif node.op_type in _RECURRENT and position == 4 and _shape(node, 0, shapes):
                yield 1, _shape(node, 0, shapes)[0]
            elif shift is not None:
                waiting += [(output, low_shift + shift[0], high_shift + shift[1]) for output in node.outputs]


def _shift(node: onnx_ir.Node, position: int) -> tuple[int, int] | None:
    """The least and the largest that the node adds to whole numbers; None where it does something else."""
    if (node.op_type in _KEEPS_VALUES and position == 0) or node.op_type in _JOINS_VALUES:
        return 0, 0
    if node.op_type != "Add" and (node.op_type != "Sub" or position == 1):
        return None
    constant = _constant(node.inputs[1 - position])
    if constant is None or not constant.size:
        return None
    low, high = int(constant.min()), int(constant.max())
    return (low, high) if node.op_type == "Add" else (-high, -low)


def _rows_looked_up(node: onnx_ir.Node, position: int, shapes: Mapping[str, Shape]) -> int | None:
    if node.op_type == "OneHot" and position == 0:
        depth = _constant(node.inputs[1])
        return None if depth is None else int(depth.reshape(-1)[0])
    table, indices = _DATA_AND_INDICES.get(node.op_type, (0, -1))
    table = _TABLES_BY_POSITION.get(node.op_type, {}).get(position, table if position == indices else -1)
    shape = _shape(node, table, shapes) if table >= 0 else ()
    if not shape:
        return None
    if node.op_type in ("GatherND", "ScatterND"):
        return min(shape)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    return int(shape[axis])


def _shape(node: onnx_ir.Node, position: int, shapes: Mapping[str, Shape]) -> Shape:
    value = node.inputs[position]
    return shapes.get(value.name or "", ()) if value is not None else ()


def _float_values(value: onnx_ir.Value) -> Values:
    """Follow `scale * x + shift` from the input on, so that what comes out of it is drawn well."""
    scale, shift = 1.0, 0.0
    while len(value.uses()) == 1:
        node, position = next(iter(value.uses()))
        if node.op_type == "QuantizeLinear" and position == 0:
            return _quantized_range(node, scale, shift)
        step = (1.0, 0.0) if node.op_type in _KEEPS_VALUES else _affine(node, position)
        if step is None:
            break
        scale, shift = scale * step[0], shift * step[0] + step[1]
        value = node.outputs[0]
    if shift == 0 and 0 < scale <= 1 / _PIXEL_SCALE:
        return Values("uniform", 0.0, 1 / scale)
    return Values("normal", -shift / scale, 1 / abs(scale)) if scale else Values("normal")


def _affine(node: onnx_ir.Node, position: int) -> tuple[float, float] | None:
    """Scale and shift of `x + c`, `x - c`, `c - x`, `x * c` and `x / c` for constants c (their mean)."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    constant = _constant(node.inputs[1 - position])
    mean = 0.0 if constant is None or not constant.size else float(constant.mean())
    if constant is None or (node.op_type in ("Mul", "Div") and mean == 0):
        return None
    if node.op_type == "Add":
        return 1.0, mean
    if node.op_type == "Sub":
        return (1.0, -mean) if position == 0 else (-1.0, mean)
    if node.op_type == "Mul":
        return mean, 0.0
    return (1 / mean, 0.0) if position == 0 else None


def _quantized_range(node: onnx_ir.Node, scale: float, shift: float) -> Values:
    step = _constant(node.inputs[1])
    zero = _constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.uint8)
    if step is None or zero is None or step.size != 1 or zero.dtype.kind not in "iu" or not scale:
        return Values("normal")
    limits = np.iinfo(zero.dtype)
    ends = [(float(step) * (end - float(zero.reshape(-1)[0])) - shift) / scale for end in (limits.min, limits.max)]
    return Values("uniform", min(ends), max(ends))


def _constant(value: onnx_ir.Value | None) -> np.ndarray | None:
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return np.asarray(node.attributes["value"].as_tensor().numpy())
    return None
