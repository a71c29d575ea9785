"""Detection: boxes that do not overlap, and features of boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS


def corners(boxes: Tensor, centred: int) -> Tensor:
    """Boxes as `[y1, x1, y2, x2]` in order, of any two corners or (centred) of x, y, width, height."""
    if centred:
        x, y, width, height = boxes.unbind(-1)
        return torch.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], -1)
    a, b = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)


def overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of one box with many; 0 where either is empty."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    area = (box[2:] - box[:2]).prod()
    return torch.where(common > 0, common / (area + areas - common), torch.zeros_like(common))


def kept_boxes(boxes: Tensor, scores: Tensor, most: int, iou: float, least_score: float | None) -> list[int]:
    """Indices of the best boxes, none of which overlaps a better one by more than `iou`."""
    order = torch.argsort(scores, descending=True, stable=True)
    if least_score is not None:
        order = order[scores[order] > least_score]
    kept: list[int] = []
    while order.numel() and len(kept) < most:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        order = order[overlap(boxes[best], boxes[order]) <= iou]
    return kept


@OPERATORS.op("NonMaxSuppression", 10)
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: int | None = None,
    iou_threshold: float | None = None,
    score_threshold: float | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """Triples `[n, 3]` of batch, class and box; boxes are `[batch, n, 4]`, scores `[batch, classes, n]`."""
    boxes = corners(boxes, center_point_box)
    found = []
    for batch in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            kept = kept_boxes(
                boxes[batch],
                scores[batch, label],
                max_output_boxes_per_class or 0,
                iou_threshold or 0.0,
                score_threshold,
            )
            found += [[batch, label, box] for box in kept]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)


@OPERATORS.op("RoiAlign", 16)
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Features `[rois, channels, height, width]` of boxes `[x1, y1, x2, y2]`: the mean or largest of samples."""
    shift = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    features = []
    for roi, batch in zip(rois * spatial_scale - shift, batch_indices.tolist(), strict=True):
        x1, y1, x2, y2 = roi.tolist()
        width, height = x2 - x1, y2 - y1
        if not shift:
            width, height = max(width, 1.0), max(height, 1.0)
        rows = bin_places(y1, height / output_height, output_height, sampling_ratio)
        columns = bin_places(x1, width / output_width, output_width, sampling_ratio)
        features.append(bins_of(x[batch], rows, columns, mode))
    return torch.stack(features) if features else x.new_zeros(0, x.shape[1], output_height, output_width)


def bin_places(start: float, size: float, n_bins: int, sampling_ratio: int) -> Tensor:
    """Where samples are taken along one axis `[bins, samples]`."""
    n = sampling_ratio if sampling_ratio > 0 else -int(-size // 1)
    inner = (torch.arange(n) + 0.5) * (size / max(n, 1))
    return start + torch.arange(n_bins).unsqueeze(1) * size + inner


def bins_of(image: Tensor, rows: Tensor, columns: Tensor, mode: str) -> Tensor:
    """Bilinear samples of `[channels, height, width]` by bins, as one number per bin."""
    down, up, v = around(rows.reshape(-1), image.shape[1])
    left, right, h = around(columns.reshape(-1), image.shape[2])
    weights = [(1 - v, 1 - h), (1 - v, h), (v, 1 - h), (v, h)]
    places = [(down, left), (down, right), (up, left), (up, right)]
    inside = (rows.reshape(-1) >= -1) & (rows.reshape(-1) <= image.shape[1])
    within = (columns.reshape(-1) >= -1) & (columns.reshape(-1) <= image.shape[2])
    mask = (inside.unsqueeze(1) & within).to(image.dtype)
    parts = [
        image[:, a][:, :, b] * (wa.unsqueeze(1) * wb) * mask for (a, b), (wa, wb) in zip(places, weights, strict=True)
    ]
    shape = (image.shape[0], rows.shape[0], rows.shape[1], columns.shape[0], columns.shape[1])
    if mode == "avg":
        return sum(parts[1:], parts[0]).reshape(shape).mean((2, 4))
    # ONNX takes the largest of the weighted corners, not of the samples.
    return torch.stack(parts).amax(0).reshape(shape).amax((2, 4))


def around(places: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The indices below and above each place, and how far it lies towards the upper one."""
    places = places.clamp(0, n - 1)
    below = places.floor().long()
    return below, (below + 1).clamp(max=n - 1), places - below


@OPERATORS.op("RoiAlign", 10)
def roi_align_10(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    return roi_align(
        x, rois, batch_indices, coordinate_transformation_mode="output_half_pixel", mode=mode,
        output_height=output_height, output_width=output_width, sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )  # fmt: skip
