"""Non-maximum suppression: ONNX's operator for each image, and its results in Core ML's padded form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS"]

_NEVER = -3.4e38
"""A score that no threshold lets pass."""


def _suppression(net: Network, layer: Layer) -> list[onnx_ir.Value]:
    """Boxes [B, N, 4] as centre and size, scores [B, N, C]; gives boxes, scores, indices [B, M] and counts [B]."""
    boxes, scores, *rest = layer.take(2, 5)
    params = layer.params
    overlap = rest[0] if rest else net.constant(np.array([params.iouThreshold], np.float32))
    least = rest[1] if len(rest) > 1 else net.constant(np.array([params.scoreThreshold], np.float32))
    most = net.cast(rest[2], "int64") if len(rest) > 2 else net.ints([params.maxBoxes])
    parts = []
    for image in range(net.static(boxes, 0)[0]):
        box, score = (
            net.op("Gather", value, net.constant(np.array(image, np.int64)), axis=0) for value in (boxes, scores)
        )
        best = net.op("ReduceMax", score, net.ints([1]), keepdims=0)
        chosen = _chosen(net, layer, box, score, best, (most, overlap, least))
        parts.append(_padded(net, box, score, chosen, most))
    return [net.op("Concat", *column, axis=0) for column in zip(*parts, strict=True)]


def _chosen(
    net: Network,
    layer: Layer,
    box: onnx_ir.Value,
    score: onnx_ir.Value,
    best: onnx_ir.Value,
    limits: tuple[onnx_ir.Value, ...],
) -> onnx_ir.Value:
    """Return the indices of the surviving boxes, best first; that of the best box where none survives."""
    by_class = net.unsqueeze(best, 0)
    if layer.params.perClassSuppression:  # each box competes in the class of its highest score only
        classes = net.ints(range(net.static(score, 1)[0]))
        own = net.op("Equal", net.unsqueeze(classes, 1), net.unsqueeze(net.op("ArgMax", score, axis=1, keepdims=0), 0))
        by_class = net.op("Where", own, by_class, net.number(_NEVER))
    found = net.op("NonMaxSuppression", net.unsqueeze(box, 0), net.unsqueeze(by_class, 0), *limits, center_point_box=1)
    index = net.squeeze(net.op("Slice", found, net.ints([2]), net.ints([3]), net.ints([1])), 1)
    if layer.params.perClassSuppression:
        surviving = net.op("Gather", best, index, axis=0)
        order = net.ops("TopK", surviving, net.op("Shape", index), results=2, axis=0)[1]
        index = net.op("Gather", index, order, axis=0)
    count = net.op("Min", net.op("Max", net.op("Shape", index), net.ints([1])), limits[0])
    with_best = net.op("Concat", index, net.op("ArgMax", best, axis=0, keepdims=1), axis=0)
    return net.op("Slice", with_best, net.ints([0]), count, net.ints([0]))


def _padded(
    net: Network, box: onnx_ir.Value, score: onnx_ir.Value, chosen: onnx_ir.Value, most: onnx_ir.Value
) -> list[onnx_ir.Value]:
    count = net.op("Shape", chosen)
    missing = net.op("Concat", net.ints([0]), net.op("Sub", most, count), axis=0)
    rows = [
        net.op("Pad", net.op("Gather", value, chosen, axis=0), missing, net.number(0), net.ints([0]))
        for value in (box, score)
    ]
    rows.append(net.op("Pad", net.cast(chosen, "float"), missing, net.number(-1), net.ints([0])))
    return [*(net.unsqueeze(row, 0) for row in rows), net.cast(count, "float")]


LAYERS: dict[str, Build] = {"NonMaximumSuppression": _suppression}
