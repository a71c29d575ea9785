"""Shapes: reshape, transpose, join, split, and tensors made of a shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS


@OPERATORS.op("Reshape", 5)
def reshape(data: Tensor, shape: list[int], *, allowzero: int = 0) -> Tensor:
    """A 0 keeps the axis of the input, unless `allowzero`."""
    if not allowzero:
        shape = [data.shape[axis] if isinstance(n, int) and n == 0 else n for axis, n in enumerate(shape)]
    return torch.reshape(data, shape)


@OPERATORS.op("Flatten", 1)
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    if axis == 1 and x.ndim > 1:
        return torch.flatten(x, 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@OPERATORS.op("Transpose", 1)
def transpose(x: Tensor, *, perm: list[int] | None = None) -> Tensor:
    return x.permute(perm if perm is not None else list(range(x.ndim))[::-1])


@OPERATORS.op("Squeeze", 13)
def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    return torch.squeeze(x) if axes is None else torch.squeeze(x, tuple(axes))


@OPERATORS.op("Squeeze", 1)
def squeeze_1(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    return squeeze(x, axes)


@OPERATORS.op("Unsqueeze", 13)
def unsqueeze(x: Tensor, axes: list[int]) -> Tensor:
    """`axes` count in the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@OPERATORS.op("Unsqueeze", 1)
def unsqueeze_1(x: Tensor, *, axes: list[int]) -> Tensor:
    return unsqueeze(x, axes)


@OPERATORS.op("Concat", 4)
def concatenate(*inputs: Tensor, axis: int) -> Tensor:
    return torch.cat(inputs, axis)


@OPERATORS.op("Split", 13)
def split_parts(
    x: Tensor,
    sizes: list[int] | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    n_outputs: int = 1,
) -> tuple[Tensor, ...]:
    """Split into parts of `sizes`, else into equal ones of which the last may be smaller."""
    if sizes is not None:
        return tuple(torch.split(x, list(sizes), axis))
    size = -(-x.shape[axis] // (num_outputs or n_outputs))
    return tuple(torch.split(x, size, axis))


@OPERATORS.op("Split", 2)
def split_2(x: Tensor, *, axis: int = 0, split: list[int] | None = None, n_outputs: int = 1) -> tuple[Tensor, ...]:
    return split_parts(x, split, axis=axis, n_outputs=n_outputs)


@OPERATORS.op("Expand", 8)
def expand(x: Tensor, shape: list[int]) -> Tensor:
    """Broadcast both ways: a 1 in `shape` keeps the axis of the input."""
    added = len(shape) - x.ndim
    x = x.reshape((1,) * added + tuple(x.shape)) if added > 0 else x
    sizes = [1] * -added + list(shape)
    return x.expand([-1 if isinstance(n, int) and n == 1 else n for n in sizes])


@OPERATORS.op("Tile", 6)
def tile(x: Tensor, repeats: list[int]) -> Tensor:
    return x.repeat(repeats)


@OPERATORS.op("DepthToSpace", 1)
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, channels, height, width = x.shape
    if mode == "CRD":
        return torch.pixel_shuffle(x, blocksize)
    x = x.reshape(n, blocksize, blocksize, channels // blocksize**2, height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, height * blocksize, width * blocksize)


@OPERATORS.op("SpaceToDepth", 1)
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    order = (0, 1, 3, 5, 2, 4) if mode == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.permute(order).reshape(n, channels * blocksize**2, height // blocksize, width // blocksize)


@OPERATORS.op("Trilu", 14)
def triangle(x: Tensor, k: int = 0, *, upper: int = 1) -> Tensor:
    return torch.triu(x, k) if upper else torch.tril(x, k)


@OPERATORS.op("EyeLike", 9)
def eye_like(x: Tensor, *, dtype: torch.dtype | None = None, k: int = 0) -> Tensor:
    rows = torch.arange(x.shape[0]).unsqueeze(1)
    return (torch.arange(x.shape[1]) - rows == k).to(dtype or x.dtype)


@OPERATORS.op("Shape", 1)
def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@OPERATORS.op("Size", 1)
def size_of(x: Tensor) -> Tensor:
    return torch.tensor(math.prod(x.shape), dtype=torch.int64)


@OPERATORS.op("ConstantOfShape", 9)
def constant_of_shape(shape: list[int], *, value: Tensor | None = None) -> Tensor:
    if value is None:
        return torch.zeros(shape)
    return value.reshape(()).expand(shape)


@OPERATORS.op("Range", 11)
def number_range(
    start: float, limit: float, delta: float, *, stash_type: int = 1, output_type: str = "int64"
) -> Tensor:
    """Numbers from `start` to before `limit`."""
    dtype = {"float": torch.float32, "double": torch.float64}.get(output_type) or getattr(torch, output_type)
    return torch.arange(start, limit, delta, dtype=dtype)


@OPERATORS.op("CenterCropPad", 18)
def center_crop_pad(x: Tensor, shape: list[int], *, axes: list[int] | None = None) -> Tensor:
    """Cut or pad with zeros on both sides; an odd one is cut after, and padded after."""
    for axis, n in zip(axes if axes is not None else range(x.ndim), shape, strict=True):
        extra = n - x.shape[axis]
        if extra < 0:
            x = x.narrow(axis, -extra // 2, n)
        elif extra > 0:
            before = extra // 2
            edges = [list(x.shape), list(x.shape)]
            edges[0][axis], edges[1][axis] = before, extra - before
            x = torch.cat([x.new_zeros(edges[0]), x, x.new_zeros(edges[1])], axis)
    return x
