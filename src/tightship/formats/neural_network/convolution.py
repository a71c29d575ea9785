"""Convolutions, their transposes, and the layers that are matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.errors import UnsupportedError
from tightship.formats.neural_network import padding
from tightship.formats.neural_network.layer import Build, Layer
from tightship.formats.neural_network.network import Network
from tightship.formats.neural_network.padding import Padding

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LAYERS"]


def _convolution(net: Network, layer: Layer) -> onnx_ir.Value:
    x = layer.take(1, 3)[0]
    kernel, stride = layer.amounts("kernelSize", 3), layer.amounts("stride", 1)
    dilation = layer.amounts("dilationFactor", 1)
    groups = int(layer.params.nGroups) or 1
    extent = _extent(kernel, dilation)
    weight, bias = _weight_and_bias(net, layer, kernel, groups)
    common = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "group": groups}

    def work(batch: onnx_ir.Value) -> onnx_ir.Value:
        sizes = net.shape(batch)[2:]
        if layer.params.isDeconvolution:
            placed = _transposed(layer, net.shape(batch)[2:], extent, stride)
            return net.op("ConvTranspose", batch, weight, bias, **common, **placed)
        placed = padding.of_2d(layer, sizes, extent, stride).attributes()
        return net.op("Conv", batch, weight, bias, **common, **placed)

    return net.folded_to(x, 4, work)


def _weight_and_bias(
    net: Network, layer: Layer, kernel: list[int], groups: int
) -> tuple[onnx_ir.Value, onnx_ir.Value | None]:
    params = layer.params
    if len(layer.inputs) > 1:  # the weights are computed
        bias = net.reshape(layer.inputs[2], [-1]) if len(layer.inputs) > 2 else _bias(net, layer, params.outputChannels)
        return layer.inputs[1], bias
    if params.isDeconvolution:
        shape = [params.kernelChannels, params.outputChannels // groups, *kernel]
    else:
        shape = [params.outputChannels, params.kernelChannels, *kernel]
    weight = layer.weight("weights", shape, channel_axis=1 if params.isDeconvolution else 0)
    return net.constant(weight, f"{layer.name}/weights"), _bias(net, layer, params.outputChannels)


def _transposed(layer: Layer, sizes: list[int | None], extent: list[int], stride: list[int]) -> dict[str, Any]:
    """Return where ConvTranspose's result is cut: natural size (n - 1) * stride + extent, less `pads`.

    A stated output shape is reached at the end, behind what the padding takes away at the start: so does coremltools
    with torch's `output_padding`, while TensorFlow's same starts with the smaller half.
    """
    if layer.params.HasField("same"):
        first_heavy = layer.params.same.asymmetryMode == 1
        totals = [reach - step for reach, step in zip(extent, stride, strict=True)]
        starts = [max(0, (total + 1) // 2 if first_heavy else total // 2) for total in totals]
        ends = [total - start for total, start in zip(totals, starts, strict=True)]
    else:
        starts, ends = padding.borders(layer, layer.params.valid.paddingAmounts)
    stated = [int(size) for size in layer.params.outputShape]
    if stated:
        ends = [
            _known(size, layer) * step - step + reach - start - wanted
            for size, step, reach, start, wanted in zip(sizes, stride, extent, starts, stated, strict=True)
        ]
    return {
        "pads": [*starts, *(max(0, end) for end in ends)],
        "output_padding": [max(0, -end) for end in ends] if min(ends) < 0 else None,
    }


def _known(size: int | None, layer: Layer) -> int:
    if size is None:
        raise UnsupportedError(f"layer {layer.name!r}: a stated output shape needs a known input size; fix the shape")
    return size


def _extent(kernel: list[int], dilation: list[int]) -> list[int]:
    return [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]


def _bias(net: Network, layer: Layer, channels: int) -> onnx_ir.Value | None:
    if not layer.params.hasBias:
        return None
    return net.constant(layer.weight("bias", [channels]), f"{layer.name}/bias")


def _convolution3d(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    kernel, stride, dilation = (_triple(layer, what) for what in ("kernel", "stride", "dilation"))
    groups, extent = params.nGroups or 1, _extent(kernel, dilation)
    common = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "group": groups}
    x, bias = layer.x, _bias(net, layer, params.outputChannels)
    placed = padding.of_3d(layer, net.shape(x)[2:], extent, stride)
    if not params.isDeconvolution:
        weight = net.constant(layer.weight("weights", [params.outputChannels, params.inputChannels // groups, *kernel]))
        return net.op("Conv", x, weight, bias, **common, **placed.attributes())
    # The builder stores what its documentation calls [kernel channels, output channels / groups, D, H, W].
    weight = net.constant(layer.weight("weights", [params.inputChannels, params.outputChannels // groups, *kernel]))
    return net.op("ConvTranspose", x, weight, bias, **common, **_cut_3d(net, layer, placed, extent, stride))


def _cut_3d(net: Network, layer: Layer, placed: Padding, extent: list[int], stride: list[int]) -> dict[str, Any]:
    if layer.choice("paddingType") == "SAME":
        totals = [max(0, reach - step) for reach, step in zip(extent, stride, strict=True)]
        placed = Padding(tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals))
    starts, ends = placed.amounts
    stated = [int(size) for size in layer.params.outputShape]
    if stated:
        sizes = net.static(layer.x, -3, -2, -1)
        ends = tuple(
            (size - 1) * step + reach - start - wanted
            for size, step, reach, start, wanted in zip(sizes, stride, extent, starts, stated, strict=True)
        )
    return {
        "pads": [*starts, *(max(0, end) for end in ends)],
        "output_padding": [max(0, -end) for end in ends] if min(ends) < 0 else None,
    }


def _triple(layer: Layer, what: str) -> list[int]:
    found = [int(getattr(layer.params, f"{what}{axis}")) or 1 for axis in ("Depth", "Height", "Width")]
    if min(found) < 1:
        raise layer.refuse(f"{what}: expected positive integers, found {found}")
    return found


def _inner_product(net: Network, layer: Layer) -> onnx_ir.Value:
    """x W^T + b; the last three axes together are the input channels from rank 4 on, which stay as [C, 1, 1]."""
    params, x = layer.params, layer.x
    weight = layer.weight("weights", [params.outputChannels, params.inputChannels])
    transposed = net.constant(weight.T, f"{layer.name}/weights")
    rank = net.rank(x)
    flat = net.reshape(x, net.dims(x, 0, rank - 3), [params.inputChannels]) if rank >= 4 else x
    result = _plus_bias(net, layer, net.op("MatMul", flat, transposed), params.outputChannels)
    return net.unsqueeze(result, rank - 2, rank - 1) if rank >= 4 else result


def _batched_matmul(net: Network, layer: Layer) -> onnx_ir.Value:
    params = layer.params
    if len(layer.take(1, 2)) == 1:
        rows, columns = params.weightMatrixFirstDimension, params.weightMatrixSecondDimension
        weight = layer.weight("weights", [columns, rows]).T  # stored in column-major order
        product = net.op("MatMul", layer.x, net.constant(weight, f"{layer.name}/weights"))
        return _plus_bias(net, layer, product, columns)
    left, right = layer.inputs
    left = net.unsqueeze(left, 0) if net.rank(left) == 1 else left
    right = net.unsqueeze(right, 1) if net.rank(right) == 1 else right
    left = _swapped(net, left) if params.transposeA else left
    right = _swapped(net, right) if params.transposeB else right
    return net.op("MatMul", left, right)


def _plus_bias(net: Network, layer: Layer, product: onnx_ir.Value, channels: int) -> onnx_ir.Value:
    bias = _bias(net, layer, channels)
    return product if bias is None else net.op("Add", product, bias)


def _swapped(net: Network, value: onnx_ir.Value) -> onnx_ir.Value:
    axes = list(range(net.rank(value)))
    return net.op("Transpose", value, perm=[*axes[:-2], axes[-1], axes[-2]])


def _embedding(net: Network, layer: Layer) -> onnx_ir.Value:
    """Rows of the table by index: [.., 1, 1, 1] becomes [.., channels, 1, 1]."""
    x = layer.x
    looked_up = _looked_up(net, layer, net.squeeze(x, -3, -2, -1), layer.params.inputDim, layer.params.outputChannels)
    return net.unsqueeze(looked_up, -2, -1)


def _embedding_nd(net: Network, layer: Layer) -> onnx_ir.Value:
    """Rows of the table by index: [.., 1] becomes [.., channels]."""
    return _looked_up(net, layer, net.squeeze(layer.x, -1), layer.params.vocabSize, layer.params.embeddingSize)


def _looked_up(net: Network, layer: Layer, index: onnx_ir.Value, rows: int, channels: int) -> onnx_ir.Value:
    table: np.ndarray = layer.weight("weights", [channels, rows]).T
    found = net.op("Gather", net.constant(table, f"{layer.name}/weights"), net.cast(index, "int64"), axis=0)
    return _plus_bias(net, layer, found, channels)


LAYERS: dict[str, Build] = {
    "convolution": _convolution,
    "convolution3d": _convolution3d,
    "innerProduct": _inner_product,
    "batchedMatmul": _batched_matmul,
    "embedding": _embedding,
    "embeddingND": _embedding_nd,
}
