"""Compressed constants (`constexpr_...`) made plain: tables of values, sparse, linearly quantized, and their mixtures.

Computed in single precision and rounded once to the type that the program declares.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tightship.formats.mil.operands import Unsupported
from tightship.formats.mil.table import DECOMPRESSED
from tightship.formats.mil.values import from_bits

__all__: list[str] = []

op = DECOMPRESSED.op

Array = np.ndarray[Any, np.dtype[Any]]


def _along(values: Array, axis: int, rank: int) -> Array:
    """A vector as a tensor that broadcasts along `axis`."""
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = values.size
    return values.reshape(shape)


def _scaled(data: Array, scale: Array, offset: Array | None) -> Array:
    wide = data.astype(np.float32)
    shifted = wide if offset is None else wide - offset.astype(np.float32)
    return (shifted * scale.astype(np.float32)).astype(scale.dtype)


@op("constexpr_affine_dequantize", since=16)
def affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> Array:
    """scale * (data - zero_point), one of each or one per index of `axis`."""
    rank = quantized_data.ndim
    return _scaled(quantized_data, _along(scale, int(axis), rank), _along(zero_point, int(axis), rank))


@op("constexpr_cast", since=16)
def cast(source_val: Array, output_dtype: Array) -> Array:
    if str(output_dtype) != "fp32":
        raise Unsupported(f"output_dtype {output_dtype}")
    return source_val.astype(np.float32)


@op("constexpr_lut_to_dense", since=16)
def lut_to_dense(indices: Array, lut: Array, shape: Array) -> Array:
    """One table; its indices are packed."""
    count = math.prod(map(int, shape))
    bits = int(math.log2(lut.size))
    if indices.size < -(-count * bits // 8):
        raise Unsupported(f"{indices.size} bytes of indices for {count} elements")
    dense: Array = lut[from_bits(indices, bits, count)].reshape(shape.astype(int))
    return dense


@op("constexpr_sparse_to_dense", since=16)
def sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array) -> Array:
    """One bit per element says whether it is not zero."""
    count = math.prod(map(int, shape))
    if mask.size != -(-count // 8):
        raise Unsupported(f"a mask of {mask.size} bytes for {count} elements")
    return _spread(nonzero_data, from_bits(mask, 1, count)).reshape(shape.astype(int))


@op("constexpr_sparse_to_dense", since=18)
def sparse_to_dense_by_shape(nonzero_data: Array, mask: Array) -> Array:
    return _spread(nonzero_data, mask)


def _spread(nonzero: Array, mask: Array) -> Array:
    dense = np.zeros(mask.shape, nonzero.dtype)
    dense[mask != 0] = nonzero
    return dense


@op("constexpr_blockwise_shift_scale", since=18)
def blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """scale * (data - offset), one of each per block; blocks are as long as the shapes' quotients."""
    spread = [_blocks(entry, data.shape) for entry in (scale, offset) if entry is not None]
    return _scaled(data, spread[0], spread[1] if len(spread) > 1 else None)


def _blocks(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat each value over its block; an axis of one value is left to broadcast."""
    for axis, (length, count) in enumerate(zip(shape, values.shape, strict=True)):
        if length % count:
            raise Unsupported(f"{count} blocks along an axis of {length}")
        if count > 1 and length > count:
            values = np.repeat(values, length // count, axis)
    return values


@op("constexpr_lut_to_dense", since=18)
def lut_to_dense_by_blocks(indices: Array, lut: Array, vector_axis: Array | None = None) -> Array:
    """One table per block of the indices, [blocks..., entries, vector]; a vector goes along `vector_axis`."""
    rank, found = indices.ndim, []
    for axis, (length, count) in enumerate(zip(indices.shape, lut.shape[:rank], strict=True)):
        if length % count:
            raise Unsupported(f"{count} tables along an axis of {length}")
        found.append(_along(np.arange(length) // (length // count), axis, rank))
    vectors: Array = lut[(*found, indices)]  # the shape of the indices, and a vector
    size = lut.shape[-1]
    if size == 1:
        return vectors[..., 0]
    axis = int(vector_axis if vector_axis is not None else 0) % rank
    shape = list(indices.shape)
    shape[axis] *= size
    return np.moveaxis(vectors, -1, axis + 1).reshape(shape)


@op("constexpr_lut_to_sparse", since=18)
def lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Array | None = None
) -> tuple[Array, Array]:
    """The mask and the elements that are not zero, to be made dense by another operator."""
    dense = lut_to_dense_by_blocks(_spread(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1:
        mask = np.repeat(mask, lut.shape[-1], int(vector_axis if vector_axis is not None else 0))
    return mask, dense[mask != 0]


@op("constexpr_sparse_blockwise_shift_scale", since=18)
def sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    dense = blockwise_shift_scale(_spread(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]
