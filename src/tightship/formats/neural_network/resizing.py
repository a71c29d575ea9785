"""Layers that sample images anew: upsampling, bilinear resizing, and boxes cut out and resized.

Linear interpolation at points p is a product with the matrix max(0, 1 - |p_i - j|): it serves where ONNX's Resize has
no such grid, and where the points are computed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network
from tightship.formats.neural_network.shaping import five_axes

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS"]

_RESIZE = {"DEFAULT": "asymmetric", "ALIGN_CORNERS_TRUE": "align_corners", "ALIGN_CORNERS_FALSE": "half_pixel"}


def _upsample(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    scales = [float(value) for value in params.fractionalScalingFactor]
    scales = scales or [float(value) for value in layer.amounts("scalingFactor", 1)]
    if len(scales) != 2 or not all(0 < scale < 2**16 for scale in scales):
        raise layer.refuse(f"expected two positive scales, found {scales}")
    nearest = layer.choice("mode") == "NN"
    grid = "asymmetric" if nearest else _RESIZE[layer.choice("linearUpsampleMode")]
    return net.folded_to(layer.x, 4, lambda batch: _resized(net, batch, scales, grid, nearest))


def _resized(net: Network, batch: onnx_ir.Value, scales: list[float], grid: str, nearest: bool) -> onnx_ir.Value:
    """Resize by scales; by the sizes they make where those are known, so that the grid spans whole pixels."""
    sizes = net.shape(batch)
    how = {"coordinate_transformation_mode": grid, "mode": "nearest" if nearest else "linear"}
    how |= {"nearest_mode": "floor"} if nearest else {}
    if None in sizes:
        factors = net.constant(np.array([1, 1, *scales], np.float32))
        return net.op("Resize", batch, None, factors, **how)
    # The spec's factors are float32, whose 2.32 falls short of 2.32: room for that before the fraction is cut.
    target = [math.floor((size or 0) * scale + 1e-5) for size, scale in zip(sizes[2:], scales, strict=True)]
    return net.op("Resize", batch, None, None, net.ints([*(size or 0 for size in sizes[:2]), *target]), **how)


def _resize_bilinear(net: Network, layer: Layer) -> onnx_ir.Value:
    target = layer.amounts("targetSize", 1)
    mode = _sampling(layer)
    grid = {"STRICT_ALIGN_ENDPOINTS_MODE": "align_corners", "UPSAMPLE_MODE": "asymmetric"}.get(mode)
    if mode == "ALIGN_ENDPOINTS_MODE" and min(target) > 1:
        grid = "align_corners"

    def work(batch: onnx_ir.Value) -> onnx_ir.Value:
        if grid is None:
            return _by_matrices(net, batch, target, mode)
        sizes = net.op("Concat", net.dims(batch, 0, 2), net.ints(target), axis=0)
        result = net.op("Resize", batch, None, None, sizes, coordinate_transformation_mode=grid, mode="linear")
        net.set_rank(result, 4)
        return result

    return net.folded_to(layer.x, 4, work)


def _sampling(layer: Layer) -> str:
    found = layer.params.mode
    names = found.DESCRIPTOR.enum_types_by_name["Method"].values_by_number
    if found.samplingMethod not in names:
        raise layer.refuse(f"found the unknown sampling method {found.samplingMethod}")
    return str(names[found.samplingMethod].name)


def _by_matrices(net: Network, batch: onnx_ir.Value, target: list[int], mode: str) -> onnx_ir.Value:
    height, width = net.static(batch, -2, -1)
    rows = _tent(_points(0.0, height - 1.0, target[0], mode), height)
    columns = _tent(_points(0.0, width - 1.0, target[1], mode), width)
    tall = net.op("MatMul", net.constant(rows), batch)
    return net.op("MatMul", tall, net.constant(np.ascontiguousarray(columns.T)))


def _points(first: float, last: float, count: int, mode: str) -> np.ndarray:
    """Return where an axis from `first` to `last` is sampled (proto: SamplingMode)."""
    offset, step = _grid(count, mode)
    points: np.ndarray = np.minimum(last, first + (last - first) * (offset + step * np.arange(count)))
    return points


def _grid(count: int, mode: str) -> tuple[float, float]:
    """Return the first point and the distance of the next, as parts of the interval's length."""
    if mode == "ROI_ALIGN_MODE":
        return 0.5 / count, 1.0 / count
    if count == 1:
        return (0.5 if mode == "ALIGN_ENDPOINTS_MODE" else 0.0), 0.0
    return 0.0, 1.0 / (count - 1)


def _tent(points: np.ndarray, size: int) -> np.ndarray:
    weights: np.ndarray = np.maximum(0, 1 - np.abs(points[:, None] - np.arange(size))).astype(np.float32)
    return weights


def _crop_resize(net: Network, layer: Layer) -> onnx_ir.Value:
    """Boxes [N, 1, 4 or 5, 1, 1] of an image [1, B, C, H, W]; a fifth number in front is the image of the batch.

    Gives [N, B, C, h, w], or [N, 1, C, h, w] where each box says its image.
    """
    image, boxes = (five_axes(net, layer, value) for value in layer.take(2))
    target, mode = layer.amounts("targetSize", 1), _sampling(layer)
    height, width = net.static(image, -2, -1)
    count = net.static(boxes, 2)[0]
    if count not in (4, 5):
        raise layer.refuse(f"expected boxes of 4 or 5 numbers, found {count}")
    flat = net.squeeze(boxes, 1, 3, 4)
    picture = image if count == 4 else _chosen(net, image, flat)
    top, left, bottom, right = _corners(net, layer, flat, count, height, width)
    rows = _tent_at(net, top, bottom, target[0], height, mode)
    columns = _tent_at(net, left, right, target[1], width, mode)
    tall = net.op("MatMul", net.unsqueeze(rows, 1, 2), picture)
    across = net.op("Transpose", net.unsqueeze(columns, 1, 2), perm=[0, 1, 2, 4, 3])
    return net.op("MatMul", tall, across)


def _chosen(net: Network, image: onnx_ir.Value, flat: onnx_ir.Value) -> onnx_ir.Value:
    index = net.cast(net.op("Gather", flat, net.constant(np.array(0, np.int64)), axis=1), "int64")
    return net.unsqueeze(net.op("Gather", net.squeeze(image, 0), index, axis=0), 1)


def _corners(
    net: Network, layer: Layer, flat: onnx_ir.Value, count: int, height: int, width: int
) -> list[onnx_ir.Value]:
    """Return top, left, bottom and right in pixels, each [N, 1]."""
    four = [net.op("Slice", flat, net.ints([n]), net.ints([n + 1]), net.ints([1])) for n in range(count - 4, count)]
    kind = layer.params.boxIndicesMode.boxMode
    if kind in (1, 3):  # width first
        four = [four[1], four[0], four[3], four[2]]
    if kind in (2, 3):  # centres and sizes
        half = [net.op("Mul", size, net.number(0.5)) for size in four[2:]]
        four = [net.op(sign, four[axis], half[axis]) for sign in ("Sub", "Add") for axis in (0, 1)]
    scale = layer.params.spatialScale or 1.0
    spans = (height - 1, width - 1) if layer.params.normalizedCoordinates else (1, 1)
    return [net.op("Mul", edge, net.number(scale * spans[place % 2])) for place, edge in enumerate(four)]


def _tent_at(
    net: Network, first: onnx_ir.Value, last: onnx_ir.Value, count: int, size: int, mode: str
) -> onnx_ir.Value:
    """Return the interpolation matrices [N, count, size] of intervals that are known at run time."""
    offset, step = _grid(count, mode)
    length = net.op("Sub", last, first)
    parts: np.ndarray = np.arange(count) / count if mode == "UPSAMPLE_MODE" else offset + step * np.arange(count)
    if mode == "ROI_ALIGN_MODE":
        length = net.op("Max", length, net.number(1))
    points = net.op("Add", first, net.op("Mul", length, net.constant(parts.astype(np.float32))))
    inside = net.op("Clip", points, net.number(0), net.number(size - 1))
    distance = net.op("Abs", net.op("Sub", net.unsqueeze(inside, 2), net.constant(np.arange(size, dtype=np.float32))))
    return net.op("Relu", net.op("Sub", net.number(1), distance))


LAYERS: dict[str, Build] = {
    "upsample": _upsample,
    "resizeBilinear": _resize_bilinear,
    "cropResize": _crop_resize,
}
