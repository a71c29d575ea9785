"""Other shapes and orders of the same elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op


def axes_of(values: Any) -> list[int]:
    return [int(value) for value in np.atleast_1d(values)]


@op("reshape", since=15)
def reshape(x: Operand, shape: Operand, *, build: Build) -> Any:
    """A 0 keeps the length of the same axis, as in ONNX."""
    return build("Reshape", x, build.integers(shape))


@op("reshape", since=17)
def reshape_from_the_right(x: Operand, shape: Operand, *, build: Build) -> Any:
    """A 0 keeps the length of the axis that is as far from the last one, and is 1 where there is none."""
    wanted = None if shape.known is None else axes_of(shape.known)
    if wanted is None or 0 not in wanted or len(wanted) == x.rank:
        return build("Reshape", x, build.integers(shape))
    shift = len(wanted) - x.rank
    lengths = []
    for axis, length in enumerate(wanted):
        known = length if length else 1 if axis < shift else x.shape[axis - shift]
        if known is None:
            raise Unsupported("a length that is kept, where it is not known before the model runs")
        lengths.append(known)
    return build.reshape(x, lengths)


@op("reshape_like", since=16)
def reshape_like(
    x: Operand,
    ref_tensors: Sequence[Operand],
    *,
    begins: Sequence[int],
    ends: Sequence[int],
    end_masks: Sequence[bool],
    build: Build,
) -> Any:
    lengths: list[int] = []
    for tensor, begin, end, open_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        part = tensor.shape[begin:] if open_end else tensor.shape[begin:end]
        lengths += [length for length in part if length is not None]
        if None in part:
            raise Unsupported(f"the shape of {tensor.name} is not known before the model runs")
    return build.reshape(x, lengths)


@op("transpose", since=15)
def transpose(x: Operand, *, perm: Any, build: Build) -> Any:
    return build.transpose(x, [x.axis(axis) for axis in axes_of(perm)]) if x.rank else x


@op("expand_dims", since=15)
def expand_dims(x: Operand, *, axes: Any, build: Build) -> Any:
    return build.unsqueeze(x, axes_of(axes))


@op("squeeze", since=15)
def squeeze(x: Operand, *, axes: Any = None, build: Build) -> Any:
    """Only axes of length 1, as in PyTorch; a length that is not known is none of these."""
    wanted = range(x.rank) if axes is None else map(x.axis, axes_of(axes))
    found = [axis for axis in wanted if x.shape[axis] == 1]
    return build.squeeze(x, found) if found else x


@op("flatten2d", since=15)
def flatten2d(x: Operand, *, axis: int = 1, build: Build) -> Any:
    return build("Flatten", x, axis=axis)


@op("reverse", since=15)
def reverse(x: Operand, *, axes: Any = None, build: Build) -> Any:
    where = list(range(x.rank)) if axes is None else axes_of(axes)
    begins, ends, steps = ([number] * len(where) for number in (-1, np.iinfo(np.int64).min, -1))
    return build("Slice", x, *(build.integers(entry) for entry in (begins, ends, where, steps)))


@op("reverse_sequence", since=15)
def reverse_sequence(x: Operand, lengths: Operand, *, seq_axis: int = 0, batch_axis: int = 0, build: Build) -> Any:
    """ONNX wants the two axes in front."""
    first = [x.axis(batch_axis), x.axis(seq_axis)]
    order = [*first, *(axis for axis in range(x.rank) if axis not in first)]
    turned = build("ReverseSequence", build.transpose(x, order), build.integers(lengths), batch_axis=0, time_axis=1)
    return build.transpose(turned, np.argsort(order).tolist())


@op("shape", since=15)
def shape(x: Operand, *, build: Build) -> Any:
    if None not in x.shape:
        return np.array(x.shape, np.int32)
    return build.cast(build("Shape", x), str(build.types[0].carrier))


def _regrouped(x: Any, before: Sequence[int], order: Sequence[int], after: Sequence[int], build: Build) -> Any:
    return build.reshape(build.transpose(build.reshape(x, before), order), after)


@op("depth_to_space", since=15)
def depth_to_space(x: Operand, *, block_size: int, build: Build) -> Any:
    return build("DepthToSpace", x, blocksize=block_size, mode="DCR")


@op("pixel_shuffle", since=15)
def pixel_shuffle(x: Operand, *, upscale_factor: int, build: Build) -> Any:
    return build("DepthToSpace", x, blocksize=upscale_factor, mode="CRD")


@op("space_to_depth", since=15)
def space_to_depth(x: Operand, *, block_size: int, build: Build) -> Any:
    return build("SpaceToDepth", x, blocksize=block_size)


def _image(x: Operand) -> tuple[int, int, int, int]:
    """Lengths of a batch of images; the number of items may be unknown, -1."""
    items, *rest = x.shape
    if x.rank != 4 or None in rest:
        raise Unsupported(f"the shape of {x.name} is not known before the model runs")
    channels, height, width = (length or 0 for length in rest)
    return -1 if items is None else items, channels, height, width


@op("pixel_unshuffle", since=16)
def pixel_unshuffle(x: Operand, *, downscale_factor: int, build: Build) -> Any:
    n, c, h, w = _image(x)
    f = int(downscale_factor)
    return _regrouped(x, [n, c, h // f, f, w // f, f], [0, 1, 3, 5, 2, 4], [n, c * f * f, h // f, w // f], build)


@op("space_to_batch", since=15)
def space_to_batch(x: Operand, *, block_shape: Any, paddings: Any, build: Build) -> Any:
    """[n, c, h/a, a, w/b, b] to [a, b, n, c, h/a, w/b]."""
    n, c, h, w = _image(x)
    (a, b), ((top, bottom), (left, right)) = axes_of(block_shape), np.asarray(paddings).astype(int).tolist()
    padded = build("Pad", x, np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    rows, columns = (h + top + bottom) // a, (w + left + right) // b
    items = -1 if n < 0 else n * a * b
    return _regrouped(padded, [n, c, rows, a, columns, b], [3, 5, 0, 1, 2, 4], [items, c, rows, columns], build)


@op("batch_to_space", since=15)
def batch_to_space(x: Operand, *, block_shape: Any, crops: Any, build: Build) -> Any:
    """[a, b, n, c, h, w] to [n, c, h, a, w, b], then cut."""
    n, c, h, w = _image(x)
    (a, b), ((top, bottom), (left, right)) = axes_of(block_shape), np.asarray(crops).astype(int).tolist()
    items = -1 if n < 0 else n // (a * b)
    grown = _regrouped(x, [a, b, items, c, h, w], [2, 3, 4, 0, 5, 1], [items, c, h * a, w * b], build)
    ends = [h * a - bottom, w * b - right]
    return build("Slice", grown, *(build.integers(entry) for entry in ([top, left], ends, [2, 3])))


@op("sliding_windows", since=15)
def sliding_windows(x: Operand, *, axis: int, size: int, stride: int = 1, build: Build) -> Any:
    where = x.axis(axis)
    length = x.shape[where]
    if length is None:
        raise Unsupported("the length of the axis is not known before the model runs")
    begins = np.arange((length - size) // stride + 1) * stride
    return build("Gather", x, begins[:, None] + np.arange(size), axis=where)
