"""Images resized, sampled and cut, and boxes that do not overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from tests.formats.mil_running import add, by_torch, numbers

PICTURE = numbers(1, 2, 5, 4)


def interpolated(mode: str, align: bool, size: tuple[int, int]) -> Any:
    return by_torch(lambda x: F.interpolate(x, size=size, mode=mode, align_corners=align))


def placed(x: np.ndarray, where: list[np.ndarray]) -> np.ndarray:
    """Linear interpolation of the last two axes at these places."""
    for axis, places in zip((-2, -1), where, strict=True):
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        part = (places - low).reshape(-1, *[1] * (-1 - axis))
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x.astype(np.float32)


def samples(mode: str, n: int, m: int) -> np.ndarray:
    """The formulas of MIL's own description of `resize_bilinear`."""
    i = np.arange(m)
    if mode == "ALIGN_CORNERS" and m == 1:
        return np.array([(n - 1) / 2])
    if mode.endswith("STRICT_ALIGN_CORNERS") or mode == "ALIGN_CORNERS":
        found = i * (n - 1) / max(1, m - 1)
    elif mode == "DEFAULT":
        found = i * (n - n / m) / max(1, m - 1)
    elif mode == "OFFSET_CORNERS":
        found = 0.5 * max(1, n - 1) / m + i * max(1, n - 1) / m
    else:
        found = i * n / m + 0.5 * n / m - 0.5
    return np.clip(found, 0, n - 1)


for mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"):
    for height, width in ((8, 3), (1, 9)):
        judge = lambda x, mode=mode, h=height, w=width: placed(x, [samples(mode, 5, h), samples(mode, 4, w)])  # noqa: E731
        add(
            "resize_bilinear",
            lambda x, mode=mode, h=height, w=width: mb.resize_bilinear(
                x=x, target_size_height=h, target_size_width=w, sampling_mode=mode
            ),
            judge,
            x=PICTURE,
            name=f"{mode} {height}",
            atol=1e-5,
        )
        add(
            "resize",
            lambda x, mode=mode, h=height, w=width: mb.resize(
                x=x, shape=[1, h, w], resized_dims=np.uint32(2), sampling_mode=mode
            ),
            judge,
            x=PICTURE,
            name=f"{mode} {height}",
            opset=17,
            atol=1e-5,
        )
NEAREST = by_torch(lambda x: F.interpolate(x, size=(8, 9), mode="nearest-exact"))
add(
    "resize_nearest_neighbor",
    lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=8, target_size_width=9),
    NEAREST,
    x=PICTURE,
)
add(
    "resize",
    lambda x: mb.resize(x=x, shape=[8, 9], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
    NEAREST,
    x=PICTURE,
    name="nearest",
    opset=17,
)
add(
    "resize",
    lambda x, s: mb.resize(x=x, shape=s, resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
    lambda x, s: placed(x, [samples("UNALIGN_CORNERS", 5, 8), samples("UNALIGN_CORNERS", 4, 9)]),
    x=PICTURE,
    s=np.array([8, 9], np.int32),
    name="computed",
    opset=17,
    atol=1e-5,
)
add(
    "upsample_nearest_neighbor",
    lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
    by_torch(lambda x: F.interpolate(x, scale_factor=(2, 3))),
    x=PICTURE,
)
for align in (True, False):
    add(
        "upsample_bilinear",
        lambda x, a=align: mb.upsample_bilinear(x=x, scale_factor_height=2.0, scale_factor_width=1.5, align_corners=a),
        interpolated("bilinear", align, (10, 6)),
        x=PICTURE,
        name=str(align),
        atol=1e-5,
    )
add(
    "upsample_bilinear",
    lambda x: mb.upsample_bilinear(
        x=x, scale_factor_height=2, scale_factor_width=2, align_corners=False, half_pixel_centers=False
    ),
    lambda x: placed(x, [samples("DEFAULT", 5, 10), samples("DEFAULT", 4, 8)]),
    x=PICTURE,
    name="asymmetric",
    opset=16,
    atol=1e-5,
)

GRID = numbers(1, 3, 6, 2, low=-1.2, high=1.2)
for padding, theirs in (("constant", "zeros"), ("border", "border"), ("reflection", "reflection")):
    for mode in ("bilinear", "nearest"):
        add(
            "resample",
            lambda x, g, p=padding, m=mode: mb.resample(
                x=x,
                coordinates=g,
                sampling_mode=m,
                padding_mode=p,
                padding_value=0.0,
                coordinates_mode="normalized_minus_one_to_one",
                align_corners=True,
            ),
            by_torch(lambda x, g, t=theirs, m=mode: F.grid_sample(x, g, mode=m, padding_mode=t, align_corners=True)),
            x=PICTURE,
            g=GRID,
            name=f"{padding} {mode}",
            atol=1e-5,
        )
add(
    "resample",
    lambda x, g: mb.resample(
        x=x,
        coordinates=mb.linear_activation(x=g, alpha=0.5, beta=0.5),
        sampling_mode="bilinear",
        padding_mode="symmetric",
        padding_value=0.0,
        coordinates_mode="normalized_zero_to_one",
        align_corners=False,
    ),
    by_torch(lambda x, g: F.grid_sample(x, g, padding_mode="reflection", align_corners=False)),
    x=PICTURE,
    g=GRID,
    name="symmetric",
    atol=1e-5,
)
add(
    "resample",
    lambda x, g: mb.resample(
        x=x,
        coordinates=mb.mul(x=mb.linear_activation(x=g, alpha=0.5, beta=0.5), y=np.array([3, 4], np.float32)),
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=2.0,
        coordinates_mode="unnormalized",
        align_corners=True,
    ),
    by_torch(lambda x, g: F.grid_sample(x - 2, g, align_corners=True) + 2),
    x=PICTURE,
    g=GRID,
    name="padding value",
    atol=1e-5,
)
THETA = np.array([[0.8, 0.3, 0.1, -0.2, 1.1, 0.2]], np.float32)
add(
    "affine",
    lambda x, t: mb.affine(
        x=x,
        transform_matrix=t,
        output_height=6,
        output_width=7,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=True,
    ),
    by_torch(
        lambda x, t: F.grid_sample(
            x, F.affine_grid(t.reshape(1, 2, 3).expand(2, 2, 3), [2, 2, 6, 7], align_corners=True), align_corners=True
        )
    ),
    x=numbers(2, 2, 5, 4),
    t=THETA,
    atol=1e-5,
)


def boxes_cut(x: np.ndarray, boxes: np.ndarray, index: list[int], size: tuple[int, int], fill: float) -> np.ndarray:
    """One patch per box with corners in pixels; as tf.image.crop_and_resize, samples outside are `fill`."""
    patches = []
    for (top, left, bottom, right), image in zip(boxes, index, strict=True):
        rows = top + np.arange(size[0]) * (bottom - top) / (size[0] - 1)
        columns = left + np.arange(size[1]) * (right - left) / (size[1] - 1)
        inside = [(rows >= 0) & (rows <= x.shape[2] - 1), (columns >= 0) & (columns <= x.shape[3] - 1)]
        patch = placed(x[image], [np.clip(rows, 0, x.shape[2] - 1), np.clip(columns, 0, x.shape[3] - 1)])
        patches.append(np.where(inside[0][:, None] & inside[1], patch, fill))
    return np.stack(patches).astype(np.float32)


BOXES = np.array([[0.5, 0.2, 3.1, 2.9], [-1, 0, 4, 5]], np.float32)
PICTURES = numbers(2, 2, 5, 4)
CUT: dict[str, Any] = {"target_height": 3, "target_width": 4, "sampling_mode": "ALIGN_CORNERS"}
add(
    "crop_resize",
    lambda x, b: mb.crop_resize(x=x, roi=mb.reshape(x=b, shape=[2, 1, 4, 1, 1]), **CUT),
    lambda x, b: boxes_cut(x, np.repeat(b, 2, 0), [0, 1, 0, 1], (3, 4), 0).reshape(2, 2, 2, 3, 4),
    x=PICTURES,
    b=BOXES,
    atol=1e-5,
)
add(
    "crop_resize",
    lambda x, b: mb.crop_resize(
        x=x, boxes=b, box_indices=[1, 0], pad_value=3.0, box_coordinate_mode="CORNERS_WIDTH_FIRST", **CUT
    ),
    lambda x, b: boxes_cut(x, b[:, [1, 0, 3, 2]], [1, 0], (3, 4), 3),
    x=PICTURES,
    b=BOXES,
    name="indices",
    opset=17,
    atol=1e-5,
)
add(
    "crop_resize",
    lambda x, b: mb.crop_resize(
        x=x, boxes=b, box_indices=[1, 0], normalized_coordinates=True, spatial_scale=0.2, **CUT
    ),
    lambda x, b: boxes_cut(x, b * np.array([0.8, 0.6, 0.8, 0.6]), [1, 0], (3, 4), 0),
    x=PICTURES,
    b=BOXES,
    name="normalized",
    opset=17,
    atol=1e-5,
)


def greedy(boxes: np.ndarray, best: np.ndarray, iou: float, lowest: float, count: int) -> list[int]:
    """Suppression by the book, on [n, 4] of centres and sizes."""
    chosen: list[int] = []
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    area = boxes[:, 2] * boxes[:, 3]
    for number in np.argsort(-best):
        if best[number] <= lowest or len(chosen) == count:
            continue
        overlaps = []
        for other in chosen:
            low = np.maximum(corners[number, :2], corners[other, :2])
            high = np.minimum(corners[number, 2:], corners[other, 2:])
            both = np.prod(np.maximum(0, high - low))
            overlaps.append(both / (area[number] + area[other] - both))
        if all(overlap <= iou for overlap in overlaps):
            chosen.append(int(number))
    return chosen


def suppressed(boxes: np.ndarray, scores: np.ndarray, iou: float, lowest: float, count: int) -> list[np.ndarray]:
    images, classes = boxes.shape[0], scores.shape[2]
    found = [np.zeros((images, count, 4), np.float32), np.zeros((images, count, classes), np.float32)]
    indices, counts = np.full((images, count), -1, np.int32), np.zeros(images, np.int32)
    for image in range(images):
        chosen = greedy(boxes[image], scores[image].max(1), iou, lowest, count)
        counts[image] = len(chosen)
        indices[image, : len(chosen)] = chosen
        found[0][image, : len(chosen)], found[1][image, : len(chosen)] = boxes[image, chosen], scores[image, chosen]
    return [*found, indices, counts]


RECTANGLES = np.concatenate([numbers(2, 12, 2, low=0, high=4), numbers(2, 12, 2, low=1, high=3)], 2)
SCORES = numbers(2, 12, 3, low=0, high=1)
add(
    "non_maximum_suppression",
    lambda b, s: mb.non_maximum_suppression(boxes=b, scores=s, iou_threshold=0.3, score_threshold=0.6, max_boxes=7),
    lambda b, s: suppressed(b, s, 0.3, 0.6, 7),
    b=RECTANGLES,
    s=SCORES,
)
add(
    "non_maximum_suppression",
    lambda b, s: mb.non_maximum_suppression(boxes=b, scores=s, iou_threshold=0.4, max_boxes=7),
    lambda b, s: [
        value.swapaxes(1, 2) if value.ndim == 3 else value
        for value in suppressed(b.swapaxes(1, 2), s.swapaxes(1, 2), 0.4, -1, 7)[:3]
    ],
    b=np.ascontiguousarray(RECTANGLES.swapaxes(1, 2)),
    s=np.ascontiguousarray(SCORES.swapaxes(1, 2)),
    name="columns",
    opset=17,
)
