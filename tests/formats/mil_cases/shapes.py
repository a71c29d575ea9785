"""Shapes, slices, indices, joining, sorting, and tensors made of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from tests.formats.mil_running import add, by_torch, numbers, whole

X = numbers(2, 3, 4, 5)
I32 = whole(2, 3, 4)

add("reshape", lambda x: mb.reshape(x=x, shape=[2, -1, 5]), x=X)
add("reshape", lambda x: mb.reshape(x=x, shape=[0, -1, 5, 1]), x=X, name="kept")
add("reshape", lambda x: mb.reshape(x=x, shape=[-1, 0]), x=X, name="kept from the right", opset=17)
add(
    "reshape",
    lambda x, s: mb.reshape(x=x, shape=s),
    lambda x, s: x.reshape(s),
    x=X,
    s=np.array([6, 20], np.int32),
    name="computed",
)
add(
    "reshape_like",
    lambda x, y: mb.reshape_like(x=x, ref_tensors=(y, y), begins=(0, 1), ends=(1, 0), end_masks=(False, True)),
    lambda x, y: x.reshape(6, 10, 2),
    x=X,
    y=numbers(6, 10, 2),
    opset=16,
)
add("transpose", lambda x: mb.transpose(x=x, perm=[0, -1, 2, 1]), x=X)
add("expand_dims", lambda x: mb.expand_dims(x=x, axes=[0, -1]), x=I32)
add("squeeze", lambda x: mb.squeeze(x=x, axes=[0, -1]), x=numbers(1, 3, 1))
add("squeeze", lambda x: mb.squeeze(x=x), x=numbers(1, 3, 1, 2), name="all")
add("flatten2d", lambda x: mb.flatten2d(x=x, axis=2), x=X)
add("flatten2d", lambda x: mb.flatten2d(x=x, axis=-1), x=X, name="negative")
add("reverse", lambda x: mb.reverse(x=x, axes=[0, -1]), x=X)
add("reverse", lambda x: mb.reverse(x=x), x=I32, name="all axes")


def reversed_sequences(x: np.ndarray, lengths: list[int], seq: int, batch: int) -> np.ndarray:
    found = np.moveaxis(x.copy(), (batch, seq), (0, 1))
    for item, length in zip(found, lengths, strict=True):
        item[:length] = item[:length][::-1].copy()
    return np.moveaxis(found, (0, 1), (batch, seq))


for seq, batch in ((1, 0), (3, 1)):
    counts = [2, 3] if not batch else [1, 5, 4]
    add(
        "reverse_sequence",
        lambda x, seq=seq, batch=batch, counts=counts: mb.reverse_sequence(
            x=x, lengths=counts, seq_axis=seq, batch_axis=batch
        ),
        lambda x, seq=seq, batch=batch, counts=counts: reversed_sequences(x, counts, seq, batch),
        x=X,
        name=f"{seq} {batch}",
    )
add("shape", lambda x: mb.shape(x=x), x=X)
IMAGE = numbers(2, 8, 4, 6)
add(
    "pixel_shuffle",
    lambda x: mb.pixel_shuffle(x=x, upscale_factor=2),
    by_torch(lambda x: F.pixel_shuffle(x, 2)),
    x=IMAGE,
)
add(
    "pixel_unshuffle",
    lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
    by_torch(lambda x: F.pixel_unshuffle(x, 2)),
    x=IMAGE,
    opset=16,
)


def blocks(x: np.ndarray, a: int, b: int) -> np.ndarray:
    """[a, b, n, c, h/a, w/b]: each place of a block of pixels."""
    return np.stack([np.stack([x[:, :, i::a, j::b] for j in range(b)]) for i in range(a)])


add(
    "space_to_depth",
    lambda x: mb.space_to_depth(x=x, block_size=2),
    lambda x: blocks(x, 2, 2).transpose(2, 0, 1, 3, 4, 5).reshape(2, 32, 2, 3),
    x=IMAGE,
)
add(
    "depth_to_space",
    lambda x: mb.depth_to_space(x=mb.space_to_depth(x=x, block_size=2), block_size=2),
    lambda x: x,
    x=IMAGE,
)
add(
    "space_to_batch",
    lambda x: mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[1, 1], [0, 3]]),
    lambda x: blocks(np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 3)]), 2, 3).reshape(12, 8, 3, 3),
    x=IMAGE,
)
add(
    "batch_to_space",
    lambda x: mb.batch_to_space(
        x=mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[1, 1], [0, 3]]),
        block_shape=[2, 3],
        crops=[[1, 1], [0, 3]],
    ),
    lambda x: x,
    x=IMAGE,
)
add(
    "sliding_windows",
    lambda x: mb.sliding_windows(x=x, axis=-1, size=3, stride=2),
    lambda x: np.stack([x[..., 0:3], x[..., 2:5]], -2),
    x=X,
)

add(
    "slice_by_index", lambda x: mb.slice_by_index(x=x, begin=[0, 1, -3, 0], end=[2, 3, -1, 5], stride=[1, 1, 1, 2]), x=X
)
add(
    "slice_by_index",
    lambda x: mb.slice_by_index(
        x=x,
        begin=[1, -1, 0, 3],
        end=[0, 0, 2, 0],
        stride=[1, 1, 1, -2],
        begin_mask=[False, False, True, False],
        end_mask=[True, False, False, True],
        squeeze_mask=[False, True, False, False],
    ),
    x=X,
    name="masks",
)
add(
    "slice_by_index",
    lambda x, b: mb.slice_by_index(x=x, begin=b, end=[2, 4, 0, 3], squeeze_mask=[False, False, True, False]),
    lambda x, b: x[1:2, :4, -1, 1:3],
    x=X,
    b=np.array([1, 0, -1, 1], np.int32),
    name="computed",
)
add(
    "slice_by_size",
    lambda x: mb.slice_by_size(x=x, begin=[0, 1, -2, 0], size=[2, -1, 2, 3]),
    lambda x: x[:, 1:, -2:, :3],
    x=X,
)
add(
    "slice_by_size",
    lambda x, b: mb.slice_by_size(x=x, begin=b, size=[1, 2, -1, 2]),
    lambda x, b: x[1:2, 1:3, :, -2:],
    x=X,
    b=np.array([1, 1, 0, -2], np.int32),
    name="computed",
)
add("crop", lambda x: mb.crop(x=x, crop_height=[1, 0], crop_width=[1, 2]), lambda x: x[:, :, 1:, 1:-2], x=X)
add(
    "slice_update",
    lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 1], end=[3, 3]),
    x=numbers(4, 5),
    u=numbers(3, 2),
    opset=18,
)
add(
    "slice_update",
    lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 1], end=[0, 5], stride=[1, 2], squeeze_mask=[True, False]),
    x=numbers(4, 5),
    u=numbers(2),
    opset=18,
    name="strides",
)

AT = np.array([[0, 2], [1, 1]], np.int32)
add("gather", lambda x, i: mb.gather(x=x, indices=i, axis=1), x=X, i=AT)
add("gather", lambda x, i: mb.gather(x=x, indices=i, axis=-1), x=X, i=np.array([-1, 0], np.int32), name="negative")
add("gather", lambda x: mb.gather(x=x, indices=1, axis=2), x=X, name="one")
for axis in (1, 3):
    add(
        "gather",
        lambda x, i, axis=axis: mb.gather(x=x, indices=i, axis=axis, batch_dims=1),
        x=X,
        i=AT,
        name=f"batch {axis}",
        opset=16,
    )
add("gather_along_axis", lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=1), x=numbers(2, 3), i=AT)
add("gather_nd", lambda x, i: mb.gather_nd(x=x, indices=i), lambda x, i: x[i[:, 0], i[:, 1]], x=numbers(2, 3, 4), i=AT)
add(
    "gather_nd",
    lambda x, i: mb.gather_nd(x=x, indices=i, batch_dims=1),
    lambda x, i: np.stack([x[n][i[n, :, 0]] for n in range(2)]),
    x=numbers(2, 3, 4),
    i=AT[..., None],
    name="batch",
    opset=16,
)
MODES = {
    "update": lambda old, new: new,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def scattered(data: np.ndarray, places: list[Any], updates: list[Any], mode: str) -> np.ndarray:
    found = data.copy()
    for place, update in zip(places, updates, strict=True):
        found[place] = MODES[mode](found[place], update)
    return found


for mode in MODES:
    add(
        "scatter",
        lambda x, i, u, mode=mode: mb.scatter(data=x, indices=i, updates=u, axis=1, mode=mode),
        lambda x, i, u, mode=mode: scattered(x, [(slice(None), n) for n in i], list(u.swapaxes(0, 1)), mode),
        x=numbers(2, 4, 3),
        i=np.array([3, 0], np.int32),
        u=numbers(2, 2, 3, low=0.5),
        name=mode,
    )
    add(
        "scatter_along_axis",
        lambda x, i, u, mode=mode: mb.scatter_along_axis(data=x, indices=i, updates=u, axis=1, mode=mode),
        lambda x, i, u, mode=mode: scattered(
            x, [(r, i[r, c]) for r in range(2) for c in range(2)], list(u.ravel()), mode
        ),
        x=numbers(2, 4),
        i=np.array([[3, 0], [1, 2]], np.int32),
        u=numbers(2, 2, low=0.5),
        name=mode,
    )
    add(
        "scatter_nd",
        lambda x, i, u, mode=mode: mb.scatter_nd(data=x, indices=i, updates=u, mode=mode),
        lambda x, i, u, mode=mode: scattered(x, [tuple(place) for place in i], list(u), mode),
        x=numbers(2, 4, 3),
        i=np.array([[1, 3], [0, 0]], np.int32),
        u=numbers(2, 3, low=0.5),
        name=mode,
        opset=17,
    )
add("non_zero", lambda x: mb.non_zero(x=x), x=whole(4, 5, low=0, high=2))

Y = numbers(2, 3, 4, 5)
add("concat", lambda x, y: mb.concat(values=(x, y), axis=-2), lambda x, y: np.concatenate([x, y], 2), x=X, y=Y)
add(
    "concat",
    lambda x, y: mb.concat(values=(x, y), axis=1, interleave=True),
    lambda x, y: np.stack([x, y], 2).reshape(2, 6, 4, 5),
    x=X,
    y=Y,
    name="interleaved",
)
add("stack", lambda x, y: mb.stack(values=(x, y), axis=1), lambda x, y: np.stack([x, y], 1), x=X, y=Y)
add("split", lambda x: mb.split(x=x, num_splits=2, axis=2), lambda x: np.split(x, 2, 2), x=X)
add("split", lambda x: mb.split(x=x, split_sizes=[1, 4], axis=-1), lambda x: np.split(x, [1], 3), x=X, name="sizes")
add("tile", lambda x: mb.tile(x=x, reps=[1, 2, 1, 3]), x=X)
for mode in ("constant", "reflect", "replicate"):
    add("pad", lambda x, mode=mode: mb.pad(x=x, pad=[1, 2, 0, 3], mode=mode, constant_val=0.5), x=X, name=mode)
add(
    "pad",
    lambda x, p: mb.pad(x=x, pad=p),
    lambda x, p: np.pad(x, [(0, 1), (2, 0)]),
    x=numbers(2, 3),
    p=np.array([0, 1, 2, 0], np.int32),
    name="computed",
)

SHAPE = np.array([2, 3], np.int32)
add("fill", lambda s: mb.fill(shape=s, value=1.5), lambda s: np.full(s, 1.5, np.float32), s=SHAPE)
add("fill_like", lambda x: mb.fill_like(ref_tensor=x, value=2.5), lambda x: np.full_like(x, 2.5), x=X, opset=16)
add(
    "range_1d",
    lambda e: mb.range_1d(end=mb.squeeze(x=e), start=1.0, step=0.5),
    lambda e: np.arange(1, 4, 0.5, np.float32),
    e=np.array([4.0], np.float32),
)
HOT = np.array([0, 3, -1, 7], np.int32)
add(
    "one_hot",
    lambda i: mb.one_hot(indices=i, one_hot_vector_size=4, on_value=2.0, off_value=-1.0),
    lambda i: np.where(i[:, None] == np.arange(4), 2.0, -1.0).astype(np.float32),
    i=HOT,
)
add(
    "one_hot",
    lambda i: mb.one_hot(indices=i, one_hot_vector_size=4, axis=0),
    lambda i: (np.arange(4)[:, None] == i).astype(np.int32),
    i=HOT,
    name="in front",
)

SHUFFLED = np.random.default_rng(3).permutation(60).reshape(3, 4, 5).astype(np.float32)
for ascending in (False, True):
    add("argsort", lambda x, a=ascending: mb.argsort(x=x, axis=1, ascending=a), x=SHUFFLED, name=str(ascending))
    add("topk", lambda x, a=ascending: mb.topk(x=x, k=2, axis=-1, ascending=a), x=SHUFFLED, name=str(ascending))
add(
    "topk",
    lambda x: mb.topk(x=x, k=4, axis=1, return_indices=False),
    lambda x: -np.sort(-x, 1),
    x=SHUFFLED,
    name="all",
    opset=16,
)
add(
    "cumsum",
    lambda x: mb.cumsum(x=x, axis=1, exclusive=True, reverse=True),
    lambda x: np.cumsum(x[:, ::-1], 1)[:, ::-1] - x,
    x=X,
    atol=1e-5,
)
add("cumsum", lambda x: mb.cumsum(x=x, axis=-1), x=X, name="plain", atol=1e-5)
for lower, upper in ((0, -1), (-1, 0), (1, 2)):
    add("band_part", lambda x, lo=lower, up=upper: mb.band_part(x=x, lower=lo, upper=up), x=X, name=f"{lower} {upper}")
add("band_part", lambda x: mb.band_part(x=x, lower=1, upper=0), x=whole(4, 5), name="int32")
