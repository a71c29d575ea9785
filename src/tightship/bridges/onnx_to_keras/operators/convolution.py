"""Convolutions, which become channels-last layers where their kernels are constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from keras import layers, ops

from tightship.bridges.onnx_to_keras.build import Build
from tightship.bridges.onnx_to_keras.layout import channels_last, image, part, plain
from tightship.bridges.onnx_to_keras.operators.movement import cut, padded
from tightship.bridges.onnx_to_keras.operators.sums import plus
from tightship.bridges.onnx_to_keras.operators.windows import Window, window
from tightship.bridges.onnx_to_keras.table import OPERATORS
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported, static

op = OPERATORS.op

Operand = Tensor | np.ndarray

CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}
DEPTHWISE = {1: layers.DepthwiseConv1D, 2: layers.DepthwiseConv2D}
TRANSPOSED = {1: layers.Conv1DTranspose, 2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}


@op("Conv")
def conv(
    x: Tensor,
    w: Operand,
    b: Operand | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
    build: Build,
) -> Tensor:
    kernel = [int(length) for length in w.shape[2:] if length is not None]
    found = window(x, kernel, strides, dilations, pads, auto_pad)
    if len(kernel) not in CONVOLUTIONS:
        raise Unsupported(f"a convolution over {len(kernel)} axes")
    padding = "valid"
    if found.is_same(x.shape[2:]):
        padding = "same"
    else:
        x = found.pad(x)
    if isinstance(w, np.ndarray) and (b is None or isinstance(b, np.ndarray)):
        return image(_layer(channels_last(x), w, b, found, padding, group, build))
    return image(_computed(channels_last(x), w, b, found, padding, group, build))


def _layer(x: Any, w: np.ndarray, b: np.ndarray | None, found: Window, padding: str, group: int, build: Build) -> Any:
    rank, filters = len(found.kernel), w.shape[0]
    config: dict[str, Any] = {
        "kernel_size": found.kernel,
        "strides": found.strides,
        "dilation_rate": found.dilations,
        "padding": padding,
        "use_bias": b is not None,
        "data_format": "channels_last",
    }
    bias = [] if b is None else [b]
    uneven = len(set(found.strides)) > 1  # TensorFlow's depthwise kernel has one stride
    if group > 1 and group == x.shape[-1] and rank in DEPTHWISE and not uneven:
        kernel = w.reshape(group, filters // group, *w.shape[2:]).transpose(*range(2, 2 + rank), 0, 1)
        config["depth_multiplier"] = filters // group
        return build.layer(DEPTHWISE[rank], x, [kernel, *bias], **config)
    kernel = _last(w)
    return build.layer(CONVOLUTIONS[rank], x, [kernel, *bias], filters=filters, groups=group, **config)


def _last(w: np.ndarray) -> np.ndarray:
    """Kernel `[out, in, spatial...]` as Keras has it: `[spatial..., in, out]`."""
    return w.transpose(*range(2, w.ndim), 1, 0)


def _computed(x: Any, w: Operand, b: Operand | None, found: Window, padding: str, group: int, build: Build) -> Any:
    """A convolution whose kernel is computed from data."""
    rank = len(found.kernel)
    kernel = ops.transpose(plain(build.tensor(w)), (*range(2, 2 + rank), 1, 0))
    config: dict[str, Any] = {"strides": found.strides, "padding": padding, "data_format": "channels_last"}
    config["dilation_rate"] = found.dilations
    if group > 1 and group == x.shape[-1] and rank in DEPTHWISE and len(set(found.strides)) == 1:
        filters = ops.reshape(kernel, (*found.kernel, group, -1))
        config["strides"] = found.strides[
            0
        ]  # read back from a file, a tuple is a list, which TensorFlow's part refuses
        result = ops.depthwise_conv(x, filters, **config)
    else:
        each = (kernel.shape[-1] or 0) // group
        parts = [
            ops.conv(value, part(kernel, -1, slice(index * each, (index + 1) * each)), **config)
            for index, value in enumerate(_by_group(x, group))
        ]
        result = parts[0] if group == 1 else ops.concatenate(parts, axis=-1)
    return result if b is None else plus(result, build.straight(b)[0])


@op("ConvTranspose")
def conv_transpose(
    x: Tensor,
    w: Operand,
    b: Operand | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
    build: Build,
) -> Tensor:
    rank = len(w.shape) - 2
    kernel = [int(length) for length in w.shape[2:] if length is not None]
    found = window(x, kernel, strides, dilations, pads, "NOTSET" if auto_pad != "VALID" else "VALID")
    extra = tuple(output_padding or (0,) * rank)
    if output_shape is not None or auto_pad.startswith("SAME"):
        totals = _totals_of_shape(x, found, extra, output_shape)
        extra = tuple(more + max(-total, 0) for more, total in zip(extra, totals, strict=True))
        found = replace(found, pads=tuple(_halves(max(total, 0), auto_pad) for total in totals))
    if rank not in TRANSPOSED:
        raise Unsupported(f"a transposed convolution over {rank} axes")
    w, found = _undilated(w, found)
    crops = _crops(found, extra)
    # With room left over after the image the bias must come after the padding.
    late = b is not None and any(high < 0 for _, high in crops)
    constant = isinstance(w, np.ndarray) and (b is None or isinstance(b, np.ndarray))
    padding = "same" if constant and _is_same(found, extra) else "valid"
    bias = None if late else b
    value = channels_last(x)
    if isinstance(w, np.ndarray) and (bias is None or isinstance(bias, np.ndarray)):
        result = _transposed_layers(value, w, bias, found, padding, group, build)
    else:
        result = _transposed(value, w, bias, found, group, build)
    tensor = image(result)
    if padding == "valid":
        tensor = _cropped(tensor, crops)
    return tensor if not late else image(plus(tensor.value, build.straight(b)[0] if b is not None else 0))


def _is_same(found: Window, extra: Sequence[int]) -> bool:
    totals = [size - stride for size, stride in zip(found.extent, found.strides, strict=True)]
    wanted = tuple((total // 2, total - total // 2) for total in totals)
    return min(totals) >= 0 and found.padded and wanted == found.pads and not any(extra)


def _crops(found: Window, extra: Sequence[int]) -> list[tuple[int, int]]:
    """What to cut from Keras' result, which has `max(kernel, stride)` places per first element."""
    spare = [max(stride - size, 0) for size, stride in zip(found.extent, found.strides, strict=True)]
    return [(low, high - more + rest) for (low, high), more, rest in zip(found.pads, extra, spare, strict=True)]


def _cropped(x: Tensor, crops: Sequence[tuple[int, int]]) -> Tensor:
    keys = {
        axis + 2: slice(low, -high if high > 0 else None) for axis, (low, high) in enumerate(crops) if low or high > 0
    }
    x = cut(x, keys) if keys else x
    return padded(x, {axis + 2: (0, max(-high, 0)) for axis, (_, high) in enumerate(crops)})


def _totals_of_shape(x: Tensor, found: Window, extra: Sequence[int], output_shape: Sequence[int] | None) -> list[int]:
    """Pads of both sides for the wanted output: stride * (n - 1) + extra + extent - output; may be negative."""
    totals = []
    for axis, length in enumerate(x.shape[2:]):
        stride = found.strides[axis]
        if length is None:
            raise Unsupported("an output of fixed size from an image of free size; fix the input shapes")
        wanted = length * stride if output_shape is None else output_shape[-len(found.kernel) :][axis]
        totals.append(stride * (length - 1) + extra[axis] + found.extent[axis] - wanted)
    return totals


def _halves(total: int, auto_pad: str) -> tuple[int, int]:
    small, large = total // 2, total - total // 2
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def _undilated(w: Operand, found: Window) -> tuple[Operand, Window]:
    """Write a dilated kernel out with zeros: TensorFlow's transposed convolutions have no dilation with strides."""
    if all(step == 1 for step in found.dilations):
        return w, found
    if not isinstance(w, np.ndarray):
        raise Unsupported("dilated, with a kernel that is computed from data")
    spread = np.zeros((*w.shape[:2], *found.extent), w.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, step) for step in found.dilations))] = w
    return spread, replace(found, kernel=found.extent, dilations=(1,) * len(found.kernel))


def _transposed_layers(
    x: Any, w: np.ndarray, b: np.ndarray | None, found: Window, padding: str, group: int, build: Build
) -> Any:
    """One layer per group, each on its channels."""
    rank = len(found.kernel)
    values, kernels = _by_group(x, group), np.split(w, group)
    biases = [None] * group if b is None else np.split(b, group)
    results = [
        build.layer(
            TRANSPOSED[rank],
            value,
            [_last(kernel), *([] if bias is None else [bias])],
            suffix="" if group == 1 else f"_group_{index}",
            filters=kernel.shape[1],
            kernel_size=found.kernel,
            strides=found.strides,
            padding=padding,
            use_bias=bias is not None,
            data_format="channels_last",
        )
        for index, (value, kernel, bias) in enumerate(zip(values, kernels, biases, strict=True))
    ]
    return results[0] if group == 1 else ops.concatenate(results, axis=-1)


def _by_group(x: Any, group: int) -> list[Any]:
    if group == 1:
        return [x]
    each = x.shape[-1] // group
    return [part(x, -1, slice(index * each, (index + 1) * each)) for index in range(group)]


def _transposed(x: Any, w: Operand, b: Operand | None, found: Window, group: int, build: Build) -> Any:
    """A kernel that is computed from data: a convolution of the image with zeros between its elements.

    keras.ops.conv_transpose of Keras 3.15 mixes its arguments up in functional models.
    """
    rank = len(found.kernel)
    kernel = ops.flip(ops.transpose(plain(build.tensor(w)), (*range(2, 2 + rank), 0, 1)), axis=tuple(range(rank)))
    each = (kernel.shape[-2] or 0) // group
    parts = [
        ops.conv(
            _spread_out(value, found),
            part(kernel, -2, slice(index * each, (index + 1) * each)),
            1,
            "valid",
            data_format="channels_last",
        )
        for index, value in enumerate(_by_group(x, group))
    ]
    result = parts[0] if group == 1 else ops.concatenate(parts, axis=-1)
    return result if b is None else plus(result, build.straight(b)[0])


def _spread_out(x: Any, found: Window) -> Any:
    """Put `stride - 1` zeros after each element and pad, so that the result has `max(kernel, stride)` per element."""
    for axis, (stride, extent) in enumerate(zip(found.strides, found.extent, strict=True), start=1):
        shape = list(static(x.shape[1:], "an image that is convolved with a computed kernel"))
        widths = [(0, 0)] * (len(x.shape) + 1)
        widths[axis + 1] = (0, stride - 1)
        shape[axis - 1] *= stride
        x = ops.reshape(ops.pad(ops.expand_dims(x, axis + 1), widths), (-1, *shape))
        sides = [(0, 0)] * len(x.shape)
        sides[axis] = (extent - 1, max(extent - stride, 0))
        x = ops.pad(x, sides)
    return x
