"""Layers that move data and never change it: reshape, transpose, join, cut, repeat and pad.

Those of the older specs speak of the axes [Sequence, Batch, C, H, W]; the later ones take any rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network
from tightship.formats.neural_network.padding import borders

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS", "five_axes"]


def five_axes(net: Network, layer: Layer, value: onnx_ir.Value) -> onnx_ir.Value:
    """Return [Sequence, Batch, C, H, W], with a sequence of 1 where it was left out."""
    missing = 5 - net.rank(value)
    if missing < 0 or (missing and not layer.sequences):
        raise layer.refuse(f"expected an input of rank 5, found {net.shape(value)}")
    return net.unsqueeze(value, *range(missing))


# [Sequence, Batch, C, H, W]


def _reshape(net: Network, layer: Layer) -> onnx_ir.Value:
    """To [C, H, W] with the sequence kept, or to [Sequence, C, H, W]; channel-last goes through [.., H, W, C]."""
    target = [int(size) for size in layer.params.targetShape]
    if len(target) not in (3, 4):
        raise layer.refuse(f"expected a target shape of 3 or 4 numbers, found {target}")
    x = five_axes(net, layer, layer.x)
    lead = net.dims(x, 0, 2) if len(target) == 3 else net.ints([target[0], 1])
    channels, height, width = target[-3:]
    if layer.choice("mode") == "CHANNEL_FIRST":
        return net.reshape(x, lead, [channels, height, width])
    last = net.op("Transpose", x, perm=[0, 1, 3, 4, 2])
    return net.op("Transpose", net.reshape(last, lead, [height, width, channels]), perm=[0, 1, 4, 2, 3])


def _flatten(net: Network, layer: Layer) -> onnx_ir.Value:
    """To [.., C * H * W, 1, 1]."""
    x, rank = layer.x, net.rank(layer.x)
    if layer.choice("mode") == "CHANNEL_LAST":
        x = net.op("Transpose", x, perm=[*range(rank - 3), rank - 2, rank - 1, rank - 3])
    sizes = net.shape(x)[-3:]
    flat = [-1] if None in sizes else [int(np.prod(sizes))]  # type: ignore[arg-type]
    return net.reshape(x, net.dims(x, 0, rank - 3), [*flat, 1, 1])


def _permute(net: Network, layer: Layer) -> onnx_ir.Value:
    """Permute [Sequence, C, H, W]; the batch stays where it is."""
    order = [int(axis) for axis in layer.params.axis] or [0, 1, 2, 3]
    if sorted(order) != [0, 1, 2, 3]:
        raise layer.refuse(f"expected a permutation of [0, 1, 2, 3], found {order}")
    if order[0] == 0 and net.rank(layer.x) == 4:
        return net.op("Transpose", layer.x, perm=[0, *order[1:]])
    first, *others = [0 if axis == 0 else axis + 1 for axis in order]
    return net.op("Transpose", five_axes(net, layer, layer.x), perm=[first, 1, *others])


def _concat(net: Network, layer: Layer) -> onnx_ir.Value:
    values = layer.take(1, 2**16)
    if layer.params.sequenceConcat:
        return net.op("Concat", *(five_axes(net, layer, value) for value in values), axis=-5)
    if len({net.rank(value) for value in values}) > 1:
        values = tuple(five_axes(net, layer, value) for value in values)
    return net.op("Concat", *values, axis=-3)


def _split(net: Network, layer: Layer) -> Sequence[onnx_ir.Value]:
    return _split_evenly(net, layer, -3, layer.params.nOutputs)


def _sequence_repeat(net: Network, layer: Layer) -> onnx_ir.Value:
    times = layer.params.nRepetitions or 1
    return net.op("Tile", five_axes(net, layer, layer.x), net.ints([times, 1, 1, 1, 1]))


def _reorganize(net: Network, layer: Layer) -> onnx_ir.Value:
    mode, block = layer.choice("mode"), int(layer.params.blockSize)
    if not 1 < block < 2**31:
        raise layer.refuse(f"expected a block size above 1, found {block}")
    if mode == "SPACE_TO_DEPTH":
        return net.folded_to(layer.x, 4, lambda batch: net.op("SpaceToDepth", batch, blocksize=block))
    order = "DCR" if mode == "DEPTH_TO_SPACE" else "CRD"
    return net.folded_to(layer.x, 4, lambda batch: net.op("DepthToSpace", batch, blocksize=block, mode=order))


def _crop(net: Network, layer: Layer) -> onnx_ir.Value:
    """Take away borders, or cut a window at an offset that is as large as the second input."""
    x, *like = layer.take(1, 2)
    axes = net.ints([-2, -1])
    if like:
        offset = net.ints([int(value) for value in layer.params.offset] or [0, 0])
        return net.op("Slice", x, offset, net.op("Add", offset, net.dims(like[0], -2)), axes)
    starts, ends = borders(layer, layer.params.cropAmounts)
    ends = [-end if end else 2**31 - 1 for end in ends]
    return net.op("Slice", x, net.ints(starts), net.ints(ends), axes)


def _padding(net: Network, layer: Layer) -> onnx_ir.Value:
    starts, ends = borders(layer, layer.params.paddingAmounts)
    kind = layer.params.WhichOneof("PaddingType") or "constant"
    mode = {"constant": "constant", "reflection": "reflect", "replication": "edge"}[kind]
    value = net.number(layer.params.constant.value) if kind == "constant" else None
    return net.op("Pad", layer.x, net.ints([*starts, *ends]), value, net.ints([-2, -1]), mode=mode)


# Any rank


def _transpose(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.op("Transpose", layer.x, perm=[int(axis) for axis in layer.params.axes])


def _stack(net: Network, layer: Layer) -> onnx_ir.Value:
    axis = int(layer.params.axis)
    return net.op("Concat", *(net.unsqueeze(value, axis) for value in layer.take(1, 2**16)), axis=axis)


def _concat_nd(net: Network, layer: Layer) -> onnx_ir.Value:
    """Join along an axis, one behind the other or, interleaved, element by element in turn."""
    values, axis = layer.take(1, 2**16), int(layer.params.axis)
    if not layer.params.interleave:
        return net.op("Concat", *values, axis=axis)
    axis %= net.rank(values[0])
    stacked = net.op("Concat", *(net.unsqueeze(value, axis + 1) for value in values), axis=axis + 1)
    return net.reshape(stacked, net.dims(values[0], 0, axis), [-1], net.dims(values[0], axis + 1))


def _split_nd(net: Network, layer: Layer) -> Sequence[onnx_ir.Value]:
    sizes = [int(size) for size in layer.params.splitSizes]
    if not sizes:
        return _split_evenly(net, layer, layer.params.axis, layer.params.numSplits)
    if len(sizes) != layer.output_count:
        raise layer.refuse(f"expected {layer.output_count} split sizes, found {len(sizes)}")
    return net.ops("Split", layer.x, net.ints(sizes), results=len(sizes), axis=layer.params.axis)


def _split_evenly(net: Network, layer: Layer, axis: int, count: int) -> Sequence[onnx_ir.Value]:
    if count != layer.output_count:
        raise layer.refuse(f"expected {count} outputs, found {layer.output_count}")
    size = net.shape(layer.x)[axis]
    if size is None:
        return net.ops("Split", layer.x, None, results=count, axis=axis, num_outputs=count)
    whole, rest = divmod(size, count)  # as numpy's array_split: the first parts are one larger
    sizes = net.ints(whole + (part < rest) for part in range(count))
    return net.ops("Split", layer.x, sizes, results=count, axis=axis)


def _tile(net: Network, layer: Layer) -> onnx_ir.Value:
    x, *rest = layer.take(1, 2)
    times = net.cast(rest[0], "int64") if rest else net.ints(layer.params.reps)
    missing = net.rank(x) - net.static(times, 0)[0]
    result = net.op("Tile", x, net.op("Concat", net.ints([1] * missing), times, axis=0) if missing else times)
    net.set_rank(result, net.rank(x))
    return result


def _squeeze(net: Network, layer: Layer) -> onnx_ir.Value:
    shape = net.shape(layer.x)
    axes = [int(axis) % max(1, len(shape)) for axis in layer.params.axes]
    if layer.params.squeezeAll:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    if len(axes) == len(shape):  # Core ML has no tensors without axes
        return net.reshape(layer.x, [1])
    return net.squeeze(layer.x, *axes)


def _expand_dims(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.unsqueeze(layer.x, *(int(axis) for axis in layer.params.axes))


def _flatten_to_2d(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.op("Flatten", layer.x, axis=layer.params.axis)


def _reshape_static(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.reshape(layer.x, [int(size) for size in layer.params.targetShape])


def _reshape_like(net: Network, layer: Layer) -> onnx_ir.Value:
    x, like = layer.take(2)
    return net.reshape(x, net.dims(like))


def _reshape_dynamic(net: Network, layer: Layer) -> onnx_ir.Value:
    x, target = layer.take(2)
    return net.reshape(x, net.cast(target, "int64"))


def _constant_pad(net: Network, layer: Layer) -> onnx_ir.Value:
    """Amounts [before 0, after 0, before 1, ..]; in the other mode those that are not 0 are the wanted size."""
    x, *rest = layer.take(1, 2)
    rank = net.rank(x)
    amounts = net.cast(rest[0], "int64") if rest else net.ints(int(amount) for amount in layer.params.padAmounts)
    by_side = net.op("Transpose", net.reshape(amounts, [rank, 2]), perm=[1, 0])
    if layer.params.padToGivenOutputSizeMode:
        by_side = net.op("Max", net.op("Sub", by_side, net.dims(x)), net.ints([0]))
    return net.op("Pad", x, net.reshape(by_side, [2 * rank]), net.number(layer.params.value))


def _reverse(net: Network, layer: Layer) -> onnx_ir.Value:
    axes = [axis for axis, reversed_ in enumerate(layer.params.reverseDim) if reversed_]
    if not axes:
        return layer.x
    count = len(axes)
    starts, ends = net.ints([-1] * count), net.ints([-(2**31)] * count)
    return net.op("Slice", layer.x, starts, ends, net.ints(axes), net.ints([-1] * count))


def _reverse_sequence(net: Network, layer: Layer) -> onnx_ir.Value:
    """Reverse the first `lengths[b]` elements of each batch; ONNX wants both axes in front."""
    x, lengths = layer.take(2)
    rank = net.rank(x)
    batch, sequence = layer.params.batchAxis % rank, layer.params.sequenceAxis % rank
    order = [batch, sequence, *(axis for axis in range(rank) if axis not in (batch, sequence))]
    front = net.op("Transpose", x, perm=order)
    reversed_ = net.op("ReverseSequence", front, net.cast(lengths, "int64"), batch_axis=0, time_axis=1)
    return net.op("Transpose", reversed_, perm=[order.index(axis) for axis in range(rank)])


def _copy(net: Network, layer: Layer) -> onnx_ir.Value:
    return layer.x


LAYERS: dict[str, Build] = {
    "reshape": _reshape,
    "flatten": _flatten,
    "permute": _permute,
    "concat": _concat,
    "split": _split,
    "sequenceRepeat": _sequence_repeat,
    "reorganizeData": _reorganize,
    "crop": _crop,
    "padding": _padding,
    "transpose": _transpose,
    "stack": _stack,
    "concatND": _concat_nd,
    "splitND": _split_nd,
    "tile": _tile,
    "squeeze": _squeeze,
    "expandDims": _expand_dims,
    "flattenTo2D": _flatten_to_2d,
    "reshapeStatic": _reshape_static,
    "rankPreservingReshape": _reshape_static,
    "reshapeLike": _reshape_like,
    "reshapeDynamic": _reshape_dynamic,
    "constantPad": _constant_pad,
    "reverse": _reverse,
    "reverseSeq": _reverse_sequence,
    "copy": _copy,
}
