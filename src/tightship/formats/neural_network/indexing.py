"""Layers that pick by index: slices, windows, gather, scatter, one-hot and triangles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tightship.errors import UnsupportedError
from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS"]

_FAR = 2**31 - 1


# Slices


def _slice(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    axis = {"CHANNEL_AXIS": -3, "HEIGHT_AXIS": -2, "WIDTH_AXIS": -1}[layer.choice("axis")]
    if params.stride < 1:
        raise layer.refuse(f"expected a positive stride, found {params.stride}")
    return net.op("Slice", layer.x, *(net.ints([n]) for n in (params.startIndex, params.endIndex, axis, params.stride)))


def _slice_static(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    begin, end, strides = (net.ints(ids) for ids in (params.beginIds, params.endIds, params.strides))
    return _sliced(net, layer, begin, end, strides, [])


def _slice_dynamic(net: Network, layer: Layer) -> onnx_ir.Value:
    """Inputs: x, begin, end, strides, masks of begin, end and squeezed axes; parameters stand in for absentees."""
    _, *given = layer.take(2, 7)
    numbers = [net.cast(value, "int64") for value in given[:3]]
    absent = [net.ints(ids) for ids in (layer.params.endIds, layer.params.strides)]
    begin, end, strides = [*numbers, *absent[len(numbers) - 1 :]]
    return _sliced(net, layer, begin, end, strides, given[3:])


def _sliced(
    net: Network,
    layer: Layer,
    begin: onnx_ir.Value,
    end: onnx_ir.Value,
    strides: onnx_ir.Value,
    masks: Sequence[onnx_ir.Value],
) -> onnx_ir.Value:
    """Slice every axis; a masked begin or end is the far one, a squeezed axis keeps the element at begin only."""
    x = layer.inputs[0]
    rank = net.rank(x)
    from_start, to_end, squeezed = _masks(net, layer, rank, masks)
    backward = net.op("Less", strides, net.ints([0]))
    far, near = net.ints([_FAR]), net.ints([-_FAR])
    begin = net.op("Where", from_start, net.op("Where", backward, far, net.ints([0])), begin)
    end = net.op("Where", to_end, net.op("Where", backward, near, far), end)
    next_ = net.op("Add", begin, net.ints([1]))
    behind = net.op("Where", net.op("Equal", next_, net.ints([0])), far, next_)  # begin is -1: up to the end
    end = net.op("Where", squeezed, behind, end)
    strides = net.op("Where", squeezed, net.ints([1]), strides)
    result = net.op("Slice", x, begin, end, net.ints(range(rank)), strides)
    net.set_rank(result, rank)
    axes = _flagged(net, layer, squeezed)
    return net.reshape(result, [1]) if len(axes) == rank else net.squeeze(result, *axes)


def _masks(net: Network, layer: Layer, rank: int, given: Sequence[onnx_ir.Value]) -> list[onnx_ir.Value]:
    params = layer.params
    stated = [
        net.constant(np.array([*mask, *[False] * rank][:rank], np.bool_))
        for mask in (params.beginMasks, params.endMasks, params.squeezeMasks)
    ]
    return [net.cast(value, "bool") for value in given] + stated[len(given) :]


def _flagged(net: Network, layer: Layer, mask: onnx_ir.Value) -> list[int]:
    known = net.known(mask)
    if known is None:
        raise UnsupportedError(f"layer {layer.name!r}: which axes are squeezed has to be constant")
    return [int(axis) for axis in np.flatnonzero(known)]


def _slice_by_size(net: Network, layer: Layer) -> onnx_ir.Value:
    x, begin = layer.take(2)
    start = net.reshape(net.cast(begin, "int64"), [1])
    end = net.op("Add", start, net.ints([layer.params.size]))
    return net.op("Slice", x, start, end, net.ints([layer.params.axis]))


def _sliding_windows(net: Network, layer: Layer) -> onnx_ir.Value:
    """[.., L, ..] becomes [.., windows, size, ..] with windows = (L - size) / step + 1."""
    params, axis = layer.params, int(layer.params.axis) % net.rank(layer.x)
    length = net.static(layer.x, axis)[0]
    if not 0 < params.windowSize <= length or params.step < 1:
        raise layer.refuse(f"expected windows of 1 to {length} and a positive step, found {params}")
    starts = np.arange(0, length - params.windowSize + 1, params.step)
    index = starts[:, None] + np.arange(params.windowSize)
    return net.op("Gather", layer.x, net.constant(index.astype(np.int64)), axis=axis)


# Gather and scatter


def _gather(net: Network, layer: Layer) -> onnx_ir.Value:
    x, index = layer.take(2)
    return net.op("Gather", x, net.cast(index, "int64"), axis=layer.params.axis)


def _gather_nd(net: Network, layer: Layer) -> onnx_ir.Value:
    x, index = layer.take(2)
    found = net.op("GatherND", x, net.cast(index, "int64"))
    rank = net.rank(index) - 1 + net.rank(x) - net.static(index, -1)[0]
    net.set_rank(found, rank)
    return found if rank else net.reshape(found, [1])


def _gather_along_axis(net: Network, layer: Layer) -> onnx_ir.Value:
    x, index = layer.take(2)
    return net.op("GatherElements", x, net.cast(index, "int64"), axis=layer.params.axis)


_MODES = {
    "SCATTER_UPDATE": ("none", None),
    "SCATTER_ADD": ("add", None),
    "SCATTER_SUB": ("add", "Neg"),
    "SCATTER_MUL": ("mul", None),
    "SCATTER_DIV": ("mul", "Reciprocal"),
    "SCATTER_MAX": ("max", None),
    "SCATTER_MIN": ("min", None),
}
"""ONNX's reduction, and what is done to the updates before."""


def _prepared(net: Network, layer: Layer) -> tuple[onnx_ir.Value, onnx_ir.Value, onnx_ir.Value, str]:
    x, index, updates = layer.take(3)
    reduction, before = _MODES[layer.choice("mode")]
    return x, net.cast(index, "int64"), net.op(before, updates) if before else updates, reduction


def _scatter(net: Network, layer: Layer) -> onnx_ir.Value:
    """Write slices along an axis; `updates` has the axes of the index where x has this one. Done with it in front."""
    x, index, updates, reduction = _prepared(net, layer)
    rank, index_rank = net.rank(x), net.rank(index)
    axis = int(layer.params.axis) % rank
    to_front = [axis, *(each for each in range(rank) if each != axis)]
    spread = range(axis, axis + index_rank)
    moved = [*spread, *(each for each in range(rank - 1 + index_rank) if each not in spread)]
    result = net.op(
        "ScatterND",
        net.op("Transpose", x, perm=to_front),
        net.unsqueeze(index, -1),
        net.op("Transpose", updates, perm=moved),
        reduction=reduction,
    )
    return net.op("Transpose", result, perm=[to_front.index(each) for each in range(rank)])


def _scatter_nd(net: Network, layer: Layer) -> onnx_ir.Value:
    x, index, updates, reduction = _prepared(net, layer)
    return net.op("ScatterND", x, index, updates, reduction=reduction)


def _scatter_along_axis(net: Network, layer: Layer) -> onnx_ir.Value:
    x, index, updates, reduction = _prepared(net, layer)
    return net.op("ScatterElements", x, index, updates, axis=layer.params.axis, reduction=reduction)


# By position


def _where_non_zero(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.cast(net.op("Transpose", net.op("NonZero", layer.x), perm=[1, 0]), "float")


def _one_hot(net: Network, layer: Layer) -> onnx_ir.Value:
    """Indices outside of 0 .. depth - 1 give the off value everywhere (ONNX counts negative ones from the end)."""
    x, *rest = layer.take(1, 2)
    params = layer.params
    depth = net.reshape(net.cast(rest[0], "int64"), [1]) if rest else net.ints([params.oneHotVectorSize])
    index = net.cast(x, "int64")
    inside = net.op("Where", net.op("Less", index, net.ints([0])), depth, index)
    values = net.constant(np.array([params.offValue, params.onValue], np.float32))
    result = net.op("OneHot", inside, depth, values, axis=params.axis)
    net.set_rank(result, net.rank(x) + 1)
    return result


def _triangle(upper: int) -> Build:
    return lambda net, layer: _trilu(net, layer.x, layer.params.k, upper)


def _trilu(net: Network, x: onnx_ir.Value, k: int, upper: int) -> onnx_ir.Value:
    return net.op("Trilu", x, net.constant(np.array(k, np.int64)), upper=upper)


def _matrix_band(net: Network, layer: Layer) -> onnx_ir.Value:
    """Keep `numLower` diagonals below and `numUpper` above the main one; all of them where negative."""
    result, params = layer.x, layer.params
    if params.numUpper >= 0:
        result = _trilu(net, result, params.numUpper, upper=0)
    return _trilu(net, result, -params.numLower, upper=1) if params.numLower >= 0 else result


LAYERS: dict[str, Build] = {
    "slice": _slice,
    "sliceStatic": _slice_static,
    "sliceDynamic": _slice_dynamic,
    "sliceBySize": _slice_by_size,
    "slidingWindows": _sliding_windows,
    "gather": _gather,
    "gatherND": _gather_nd,
    "gatherAlongAxis": _gather_along_axis,
    "scatter": _scatter,
    "scatterND": _scatter_nd,
    "scatterAlongAxis": _scatter_along_axis,
    "whereNonZero": _where_non_zero,
    "oneHot": _one_hot,
    "lowerTriangular": _triangle(upper=0),
    "upperTriangular": _triangle(upper=1),
    "matrixBandPart": _matrix_band,
}
