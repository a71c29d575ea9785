"""Channels that one operator writes and others read, so that a scale per channel can be moved from here to there.

    y = writer(x), z = reader(y)        becomes        y / s = writer'(x), z = reader'(y / s)

which changes nothing where all between them is homogeneous: f(y / s) = f(y) / s for s > 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tightship.passes.editing import add_constant, constant, drop_unused, known_constant

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Constant", "Reader", "readers_of", "rescale"]

_HOMOGENEOUS = frozenset({"AveragePool", "GlobalAveragePool", "Identity", "LeakyRelu", "MaxPool", "Relu"})


@dataclass(frozen=True)
class Constant:
    """Input `index` of an operator, which holds one slice per channel along `axis`."""

    node: onnx_ir.Node
    index: int
    axis: int

    def read(self) -> np.ndarray:
        array: np.ndarray = known_constant(self.node.inputs[self.index]).numpy()
        return array


@dataclass(frozen=True)
class Reader:
    """An operator that multiplies channels of `x` by a constant weight; `depthwise`: each channel by its own only."""

    x: onnx_ir.Value
    weight: Constant
    depthwise: bool

    def by_channel(self) -> np.ndarray:
        """Return the weight as `[outputs, channels, taps]`; depthwise as `[channels, multiplier * taps]`."""
        array = np.moveaxis(self.weight.read(), self.weight.axis, 0)
        if self.depthwise:
            return array.reshape(self.x.shape[1], -1)
        return np.moveaxis(array.reshape(*array.shape[:2], -1), 0, 1)


@dataclass(frozen=True)
class _Place:
    """A value and the axis of its channels."""

    value: onnx_ir.Value
    axis: int


def readers_of(value: onnx_ir.Value, axis: int) -> tuple[list[Reader], list[Constant]] | str:
    """Return all that reads the channels of a value, and the constants added to them between.

    A string says what is in the way: an operator that reads them and is neither homogeneous nor a product by a weight.
    """
    readers: list[Reader] = []
    added: list[Constant] = []
    pending = [_Place(value, axis)]
    while pending:
        place = pending.pop()
        if place.value.is_graph_output():
            return "the graph's output"
        for node, index in place.value.uses():
            found = _read(node, index, place)
            if isinstance(found, str):
                return found
            if isinstance(found, Reader):
                readers.append(found)
            else:
                where, more = found
                added += more
                pending.append(where)
    return (readers, added) if readers else "nobody"


def rescale(graph: onnx_ir.Model, constants: Sequence[Constant], factor: np.ndarray) -> None:
    """Multiply each slice of the constants by the factor of its channel; shared constants are copied first."""
    for entry in constants:
        old = entry.node.inputs[entry.index]
        array = entry.read()
        shape = [1] * array.ndim
        shape[entry.axis] = len(factor)
        # The product in double precision is rounded once.
        new = (array * factor.reshape(shape)).astype(np.float32)
        entry.node.replace_input_with(entry.index, add_constant(graph, f"{old.name}/scaled", new))
        drop_unused(old)


def _read(node: onnx_ir.Node, index: int, place: _Place) -> Reader | tuple[_Place, list[Constant]] | str:
    output, name = node.outputs[0], str(node.op_type)
    if node.domain != "" or node.graph is not place.value.graph or output.shape is None or place.value.shape is None:
        return name
    if node.op_type in _HOMOGENEOUS and len(node.outputs) == 1 and index == 0:
        return _Place(output, place.axis), []
    follow = _FOLLOWED.get(name)
    return name if follow is None else follow(node, index, place) or name


def _convolution(node: onnx_ir.Node, index: int, place: _Place) -> Reader | None:
    groups, n_channels = node.attributes.get_int("group", 1), place.value.shape[1]
    if index or place.axis != 1 or not _is_weight(node.inputs[1]) or groups not in (1, n_channels):
        return None
    depthwise = groups == n_channels > 1
    if depthwise and known_constant(node.inputs[1]).shape[0] != n_channels:
        return None
    return Reader(place.value, Constant(node, 1, 0 if depthwise else 1), depthwise)


def _product(node: onnx_ir.Node, index: int, place: _Place) -> Reader | None:
    rank = len(place.value.shape)
    if index or place.axis != rank - 1 or not _is_weight(node.inputs[1]) or node.attributes.get_int("transA", 0):
        return None
    if len(known_constant(node.inputs[1]).shape) != 2:
        return None
    return Reader(place.value, Constant(node, 1, 1 if node.attributes.get_int("transB", 0) else 0), False)


def _sum(node: onnx_ir.Node, index: int, place: _Place) -> tuple[_Place, list[Constant]] | None:
    """The addition of a constant with one number per channel."""
    tensor = constant(node.inputs[1 - index])
    if tensor is None or tensor.dtype.name != "FLOAT" or len(node.outputs[0].shape) != len(place.value.shape):
        return None
    axis = place.axis - len(place.value.shape) + len(tensor.shape)
    fits = axis >= 0 and tensor.shape[axis] == place.value.shape[place.axis]
    return (_Place(node.outputs[0], place.axis), [Constant(node, 1 - index, axis)]) if fits else None


def _clip(node: onnx_ir.Node, index: int, place: _Place) -> tuple[_Place, list[Constant]] | str:
    """A Clip at zero alone is a Relu. Any other bound is one number for all channels, which would need one each."""
    bounds = [None if bound is None else constant(bound) for bound in (*node.inputs[1:3], None, None)[:2]]
    only_zero = len([bound for bound in node.inputs[1:3] if bound is not None]) == 1 and bounds[0] is not None
    if index == 0 and only_zero and float(bounds[0].numpy()) == 0:  # type: ignore[union-attr]
        return _Place(node.outputs[0], place.axis), []
    return "Clip"


def _mean(node: onnx_ir.Node, index: int, place: _Place) -> tuple[_Place, list[Constant]] | None:
    rank = len(place.value.shape)
    axes = node.attributes.get_ints("axes", ())
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = constant(node.inputs[1])
        axes = () if tensor is None else tuple(int(axis) for axis in tensor.numpy())
    taken = {axis % rank for axis in axes}
    if index or not taken or place.axis in taken:
        return None
    moved = 0 if node.attributes.get_int("keepdims", 1) else sum(axis < place.axis for axis in taken)
    return _Place(node.outputs[0], place.axis - moved), []


def _reshaped(node: onnx_ir.Node, index: int, place: _Place) -> tuple[_Place, list[Constant]] | None:
    """A Reshape or Flatten that leaves the channels as its last axis: [N, C, 1, 1] or [A, B, C] -> [M, C]."""
    before, after = list(place.value.shape), list(node.outputs[0].shape)
    last = all(dim == 1 for dim in before[place.axis + 1 :]) and after and after[-1] == before[place.axis]
    return (_Place(node.outputs[0], len(after) - 1), []) if index == 0 and last else None


def _transposed(node: onnx_ir.Node, index: int, place: _Place) -> tuple[_Place, list[Constant]]:
    order = node.attributes.get_ints("perm", tuple(reversed(range(len(place.value.shape)))))
    return _Place(node.outputs[0], list(order).index(place.axis)), []


_Followed = Callable[["onnx_ir.Node", int, _Place], "Reader | tuple[_Place, list[Constant]] | str | None"]

_FOLLOWED: Mapping[str, _Followed] = {
    "Add": _sum,
    "Clip": _clip,
    "Conv": _convolution,
    "Flatten": _reshaped,
    "Gemm": _product,
    "MatMul": _product,
    "ReduceMean": _mean,
    "Reshape": _reshaped,
    "Transpose": _transposed,
}


def _is_weight(value: onnx_ir.Value | None) -> bool:
    tensor = constant(value)
    return tensor is not None and tensor.dtype.name == "FLOAT"
