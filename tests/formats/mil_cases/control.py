"""Branches, loops, lists, labels, quantized activations, and compressed constants."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from tests.formats.mil_running import add, numbers, whole

X = numbers(3, 4)

add(
    "cond",
    lambda x: mb.cond(
        pred=mb.greater(x=mb.reduce_sum(x=x), y=0.0),
        _true_fn=lambda: mb.mul(x=x, y=2.0),
        _false_fn=lambda: mb.identity(x=x),
    ),
    lambda x: x * 2,
    x=np.abs(X),
)
add(
    "cond",
    lambda x: mb.cond(
        pred=mb.greater(x=mb.reduce_sum(x=x), y=0.0),
        _true_fn=lambda: (x, mb.mul(x=x, y=2.0)),
        _false_fn=lambda: (mb.mul(x=x, y=3.0), x),
    ),
    lambda x: [x * 3, x],
    x=-np.abs(X),
    name="other branch",
)
add(
    "while_loop",
    lambda x: mb.while_loop(
        _cond=lambda i, a: mb.less(x=mb.squeeze(x=mb.reduce_sum(x=i, keep_dims=True)), y=5.0),
        _body=lambda i, a: (mb.add(x=i, y=1.0), mb.add(x=mb.mul(x=a, y=2.0), y=i)),
        loop_vars=(mb.fill(shape=[1], value=0.0), x),
    )[1],
    lambda x: [x := x * 2 + i for i in range(5)][-1],
    x=X,
)


def doubled(i: Any, ls: Any, x: Any) -> Any:
    row = mb.squeeze(x=mb.gather(x=x, indices=i, axis=0), axes=[0])
    return mb.add(x=i, y=1), mb.list_write(ls=ls, index=mb.squeeze(x=i), value=mb.mul(x=row, y=2.0))


def looped(x: Any, length: int) -> Any:
    """A list of rows, written in a loop."""
    start = mb.fill(shape=[1], value=0)
    ls = mb.make_list(init_length=length, elem_shape=(4,))
    _, rows = mb.while_loop(
        _cond=lambda i, ls: mb.less(x=mb.squeeze(x=i), y=3),
        _body=lambda i, ls: doubled(i, ls, x),
        loop_vars=(start, ls),
    )
    return rows


for length in (1, 3):
    add(
        "list_write",
        lambda x, n=length: mb.list_gather(ls=looped(x, n), indices=[2, 0]),
        lambda x: 2 * x[[2, 0]],
        x=X,
        name=f"in a loop {length}",
    )
add(
    "make_list",
    lambda x: mb.list_gather(
        ls=mb.list_write(ls=mb.make_list(init_length=2, elem_shape=(3, 4)), index=1, value=x), indices=[0, 1]
    ),
    lambda x: np.stack([np.zeros_like(x), x]),
    x=X,
)
add(
    "list_read",
    lambda x: mb.list_read(
        ls=mb.list_write(ls=mb.make_list(init_length=1, elem_shape=(3, 4)), index=0, value=x), index=0
    ),
    lambda x: x,
    x=X,
)
add(
    "list_gather",
    lambda x: mb.list_gather(
        ls=mb.list_scatter(ls=mb.make_list(init_length=1, elem_shape=(4,)), indices=[2, 0, 1], value=x), indices=[0, 2]
    ),
    lambda x: x[[1, 0]],
    x=X,
)
add(
    "list_scatter",
    lambda x: mb.list_read(
        ls=mb.list_scatter(ls=mb.make_list(init_length=1, elem_shape=(4,)), indices=[2, 0, 1], value=x), index=1
    ),
    lambda x: x[2],
    x=X,
)
add(
    "list_length",
    lambda x: mb.expand_dims(
        x=mb.list_length(
            ls=mb.list_scatter(ls=mb.make_list(init_length=1, elem_shape=(4,)), indices=[2, 0, 1], value=x)
        ),
        axes=[0],
    ),
    lambda x: np.array([3], np.int32),
    x=X,
)

SCALES = np.array([0.1, 0.2, 0.05, 0.3], np.float32)
POINTS = np.array([3, -4, 0, 7], np.int8)


def quantized(x: np.ndarray, scale: Any, point: Any, low: int, high: int) -> np.ndarray:
    return np.clip(np.round(x / scale) + point, low, high).astype(np.int32)


add(
    "quantize",
    lambda x: mb.cast(
        x=mb.quantize(input=x, scale=SCALES, zero_point=POINTS, axis=1, output_dtype="int8"), dtype="int32"
    ),
    lambda x: quantized(x, SCALES, POINTS, -128, 127),
    x=10 * X,
    opset=17,
)
add(
    "quantize",
    lambda x: mb.cast(x=mb.quantize(input=x, scale=np.float32(0.1), output_dtype="uint8"), dtype="int32"),
    lambda x: quantized(x, 0.1, 0, 0, 255),
    x=10 * X,
    opset=17,
    name="plain",
)
add(
    "dequantize",
    lambda x: mb.dequantize(input=mb.cast(x=x, dtype="int8"), scale=SCALES, zero_point=POINTS, axis=1),
    lambda x: SCALES * (x - POINTS).astype(np.float32),
    x=whole(3, 4),
    opset=17,
)

BITS = np.random.default_rng(5)


def added(constant: Any) -> Any:
    """A program needs an input; zero is added to what is judged."""
    return lambda x: mb.add(x=x, y=constant())


def none(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


INT8 = BITS.integers(-128, 128, (4, 6)).astype(np.int8)
add(
    "constexpr_affine_dequantize",
    added(lambda: mb.constexpr_affine_dequantize(quantized_data=INT8, scale=SCALES, zero_point=POINTS, axis=0)),
    lambda x: (INT8.astype(np.float32) - POINTS[:, None]) * SCALES[:, None],
    x=none(4, 6),
    opset=16,
)
HALF = numbers(4, 6).astype(np.float16)
add(
    "constexpr_cast",
    added(lambda: mb.constexpr_cast(source_val=HALF, output_dtype="fp32")),
    lambda x: HALF.astype(np.float32),
    x=none(4, 6),
    opset=16,
)
for bits in (1, 2, 4, 6, 8):
    table = numbers(2**bits)
    keys = BITS.integers(0, 2**bits, 24).astype(np.uint8)
    packed = np.packbits(((keys[:, None] >> np.arange(bits)) & 1).ravel(), bitorder="little")
    add(
        "constexpr_lut_to_dense",
        added(
            lambda table=table, packed=packed: mb.constexpr_lut_to_dense(
                indices=packed, lut=table, shape=np.array([4, 6], np.uint32)
            )
        ),
        lambda x, table=table, keys=keys: table[keys].reshape(4, 6),
        x=none(4, 6),
        opset=16,
        name=f"{bits} bits",
    )
MASK = BITS.integers(0, 2, (4, 6)).astype(np.uint8)
KEPT = numbers(int(MASK.sum()))
DENSE = none(4, 6)
DENSE[MASK == 1] = KEPT
add(
    "constexpr_sparse_to_dense",
    added(
        lambda: mb.constexpr_sparse_to_dense(
            nonzero_data=KEPT, mask=np.packbits(MASK.ravel(), bitorder="little"), shape=np.array([4, 6], np.uint32)
        )
    ),
    lambda x: DENSE,
    x=none(4, 6),
    opset=16,
)


def short(array: np.ndarray, kind: Any) -> np.ndarray:
    """An array of fewer than 8 bits, as coremltools marks it."""
    return array.astype(types.nptype_from_builtin(kind))


add(
    "constexpr_sparse_to_dense",
    added(lambda: mb.constexpr_sparse_to_dense(nonzero_data=KEPT, mask=short(MASK, types.uint1))),
    lambda x: DENSE,
    x=none(4, 6),
    opset=18,
    name="by shape",
)
INT4 = BITS.integers(-8, 8, (4, 6)).astype(np.int8)
BLOCKS = numbers(2, 3)
for kind, source in (("int4", INT4), ("int8", INT8)):
    mark = types.string_to_builtin(kind)
    offset = BITS.integers(-8, 8, (2, 3)).astype(np.int8)
    add(
        "constexpr_blockwise_shift_scale",
        added(
            lambda source=source, mark=mark, offset=offset: mb.constexpr_blockwise_shift_scale(
                data=short(source, mark), scale=BLOCKS, offset=short(offset, mark)
            )
        ),
        lambda x, source=source, offset=offset: (
            (source.astype(np.float32) - np.kron(offset, np.ones((2, 2)))) * np.kron(BLOCKS, np.ones((2, 2)))
        ).astype(np.float32),
        x=none(4, 6),
        opset=18,
        name=kind,
    )
for bits in (1, 2, 3, 4, 6):
    tables = numbers(2, 1, 2**bits, 1)
    keys = BITS.integers(0, 2**bits, (4, 6)).astype(np.uint8)
    add(
        "constexpr_lut_to_dense",
        added(
            lambda tables=tables, keys=keys, bits=bits: mb.constexpr_lut_to_dense(
                indices=short(keys, types.string_to_builtin(f"uint{bits}")), lut=tables
            )
        ),
        lambda x, tables=tables, keys=keys: np.concatenate(
            [tables[0, 0, :, 0][keys[:2]], tables[1, 0, :, 0][keys[2:]]]
        ),
        x=none(4, 6),
        opset=18,
        name=f"groups {bits}",
    )
VECTORS = numbers(1, 1, 4, 3)
VECTOR_KEYS = BITS.integers(0, 4, (4, 2)).astype(np.uint8)
add(
    "constexpr_lut_to_dense",
    added(
        lambda: mb.constexpr_lut_to_dense(indices=short(VECTOR_KEYS, types.uint2), lut=VECTORS, vector_axis=np.int32(1))
    ),
    lambda x: VECTORS[0, 0][VECTOR_KEYS].reshape(4, 6),
    x=none(4, 6),
    opset=18,
    name="vectors",
)
SPARSE_KEYS = BITS.integers(0, 4, int(MASK.sum())).astype(np.uint8)
PALETTE = numbers(1, 1, 4, 1)


def sparse_palette() -> Any:
    mask, kept = mb.constexpr_lut_to_sparse(
        indices_mask=short(MASK, types.uint1), indices_nonzero_data=short(SPARSE_KEYS, types.uint2), lut=PALETTE
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=kept, mask=mask)


def spread(values: np.ndarray) -> np.ndarray:
    found = none(4, 6)
    found[MASK == 1] = values
    return found


add(
    "constexpr_lut_to_sparse",
    added(sparse_palette),
    lambda x: spread(PALETTE[0, 0, SPARSE_KEYS, 0]),
    x=none(4, 6),
    opset=18,
)
SPARSE_INT8 = BITS.integers(-128, 128, int(MASK.sum())).astype(np.int8)
COLUMN = numbers(4, 1)


def sparse_quantized() -> Any:
    mask, kept = mb.constexpr_sparse_blockwise_shift_scale(
        data_mask=short(MASK, types.uint1), nonzero_data=SPARSE_INT8, scale=COLUMN
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=kept, mask=mask)


add(
    "constexpr_sparse_blockwise_shift_scale",
    added(sparse_quantized),
    lambda x: spread(SPARSE_INT8) * COLUMN,
    x=none(4, 6),
    opset=18,
)
TABLE8 = BITS.integers(-128, 128, (1, 1, 4, 1)).astype(np.int8)
JOINT_KEYS = BITS.integers(0, 4, (4, 6)).astype(np.uint8)
add(
    "constexpr_lut_to_dense",
    added(
        lambda: mb.constexpr_lut_to_dense(
            indices=short(JOINT_KEYS, types.uint2),
            lut=mb.constexpr_blockwise_shift_scale(data=TABLE8, scale=np.full((1, 1, 1, 1), 0.02, np.float32)),
        )
    ),
    lambda x: TABLE8[0, 0, JOINT_KEYS, 0].astype(np.float32) * np.float32(0.02),
    x=none(4, 6),
    opset=18,
    name="quantized table",
)
