"""Poolings over two and three spatial axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tightship.formats.neural_network import padding
from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network
from tightship.formats.neural_network.padding import Padding

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS"]


def _pooling(net: Network, layer: Layer) -> onnx_ir.Value:
    kind = layer.choice("type")
    if layer.params.globalPooling:
        return net.folded_to(layer.x, 4, lambda batch: _global(net, batch, kind))
    kernel, stride = layer.amounts("kernelSize", 3), layer.amounts("stride", 1)

    def work(batch: onnx_ir.Value) -> onnx_ir.Value:
        if layer.params.HasField("includeLastPixel"):
            both = _to_the_last_pixel(layer, net.static(batch, -2, -1), kernel, stride)
            return _pooled_past_padding(net, layer, batch, both, kernel, stride)
        placed = padding.of_2d(layer, net.shape(batch)[2:], kernel, stride)
        return _pooled(net, batch, kind, kernel, stride, placed, bool(layer.params.avgPoolExcludePadding))

    return net.folded_to(layer.x, 4, work)


def _global(net: Network, batch: onnx_ir.Value, kind: str) -> onnx_ir.Value:
    if kind == "L2":
        return net.op("GlobalLpPool", batch, p=2)
    return net.op("GlobalMaxPool" if kind == "MAX" else "GlobalAveragePool", batch)


def _pooled(
    net: Network, batch: onnx_ir.Value, kind: str, kernel: list[int], stride: list[int], placed: Padding, exclude: bool
) -> onnx_ir.Value:
    common: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, **placed.attributes()}
    if kind == "AVERAGE":
        return net.op("AveragePool", batch, **common, count_include_pad=int(not exclude))
    return net.op("LpPool", batch, **common, p=2) if kind == "L2" else net.op("MaxPool", batch, **common)


def _to_the_last_pixel(layer: Layer, sizes: list[int], kernel: list[int], stride: list[int]) -> tuple[Padding, Padding]:
    """Return the stated padding and what lies behind it so that the last window covers the last pixel."""
    stated = [int(value) for value in layer.params.includeLastPixel.paddingAmounts] or [0, 0]
    if len(stated) != 2 or max(stated) >= 2**31:
        raise layer.refuse(f"expected padding amounts for [H, W], found {stated}")
    behind = []
    for size, extent, step, pad in zip(sizes, kernel, stride, stated, strict=True):
        windows = -(-(size + 2 * pad - extent) // step) + 1
        if max(stated) > 0 and (windows - 1) * step >= size + pad:
            windows -= 1
        behind.append(max(0, (windows - 1) * step + extent - size - 2 * pad))
    return Padding(tuple(stated), tuple(stated)), Padding((0, 0), tuple(behind))


def _pooled_past_padding(
    net: Network,
    layer: Layer,
    batch: onnx_ir.Value,
    both: tuple[Padding, Padding],
    kernel: list[int],
    stride: list[int],
) -> onnx_ir.Value:
    stated, behind = both
    kind, exclude = layer.choice("type"), bool(layer.params.avgPoolExcludePadding)
    if kind == "AVERAGE" and not exclude:
        # The stated padding counts as zeros, what lies behind it not at all (so do Caffe and torch's ceil_mode).
        pads = net.ints([0, 0, *stated.before, 0, 0, *stated.after])
        return _pooled(net, net.op("Pad", batch, pads), kind, kernel, stride, behind, exclude=True)
    after = tuple(first + second for first, second in zip(stated.after, behind.after, strict=True))
    return _pooled(net, batch, kind, kernel, stride, Padding(stated.before, after), exclude)


def _pooling3d(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    kernel = [params.kernelDepth, params.kernelHeight, params.kernelWidth]
    stride = [params.strideDepth, params.strideHeight, params.strideWidth]
    if min(kernel + stride) < 1:
        raise layer.refuse(f"expected positive kernels and strides, found {kernel} and {stride}")
    placed = padding.of_3d(layer, net.shape(layer.x)[2:], kernel, stride)
    kind, exclude = layer.choice("type"), bool(params.countExcludePadding)
    return net.folded_to(layer.x, 5, lambda batch: _pooled(net, batch, kind, kernel, stride, placed, exclude))


def _global_pooling3d(net: Network, layer: Layer) -> onnx_ir.Value:
    return net.folded_to(layer.x, 5, lambda batch: _global(net, batch, layer.choice("type")))


LAYERS: dict[str, Build] = {
    "pooling": _pooling,
    "pooling3d": _pooling3d,
    "globalPooling3d": _global_pooling3d,
}
