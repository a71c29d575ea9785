"""Windows that slide over images: strides, dilations and paddings as convolutions and pools share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightship.bridges.onnx_to_keras.operators.movement import padded
from tightship.bridges.onnx_to_keras.values import Tensor, Unsupported

__all__ = ["Window", "counts", "same_pads", "window"]


@dataclass(frozen=True)
class Window:
    """A window over the spatial axes; `pads` holds the width before and after each."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Lengths that the kernel covers."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    @property
    def padded(self) -> bool:
        return any(low or high for low, high in self.pads)

    def is_same(self, shape: Sequence[int | None]) -> bool:
        """Whether Keras' padding "same" pads as this does, for an image of these spatial lengths."""
        wanted = [
            same_pads(length, extent, stride)
            for length, extent, stride in zip(shape, self.extent, self.strides, strict=True)
        ]
        return self.padded and tuple(wanted) == self.pads

    def pad(self, x: Tensor, fill: float = 0) -> Tensor:
        """Pad the image of a `[N, C, spatial...]` tensor."""
        return padded(x, {axis + 2: width for axis, width in enumerate(self.pads)}, fill=fill)


def same_pads(length: int | None, extent: int, stride: int) -> tuple[int, int] | None:
    """Pads with which the output has ceil(length / stride) places, more of them after; None where it depends."""
    if length is None:
        return ((extent - 1) // 2, extent // 2) if stride == 1 else None
    total = max((-(-length // stride) - 1) * stride + extent - length, 0)
    return total // 2, total - total // 2


def window(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> Window:
    """Return the window of a node, its paddings in numbers. Raises `Unsupported` where they depend on a free axis."""
    rank = len(kernel)
    steps = tuple(int(step) for step in strides or (1,) * rank)
    dilation = tuple(int(step) for step in dilations or (1,) * rank)
    found = Window(tuple(int(size) for size in kernel), steps, dilation, ((0, 0),) * rank)
    if auto_pad in ("NOTSET", ""):
        widths = tuple(int(width) for width in pads or (0,) * (2 * rank))
        sides = tuple(zip(widths[:rank], widths[rank:], strict=True))
    elif auto_pad == "VALID":
        sides = found.pads
    else:
        sides = tuple(
            _automatic(length, extent, stride, auto_pad)
            for length, extent, stride in zip(x.shape[2:], found.extent, steps, strict=True)
        )
    return Window(found.kernel, steps, dilation, sides)


def _automatic(length: int | None, extent: int, stride: int, auto_pad: str) -> tuple[int, int]:
    widths = same_pads(length, extent, stride)
    if widths is None:
        raise Unsupported(f"auto_pad {auto_pad} on an image of free size; fix the input shapes")
    return widths if auto_pad == "SAME_UPPER" else (widths[1], widths[0])


def counts(size: Sequence[int], found: Window) -> np.ndarray:
    """Return how many places of the image, not of the padding, each window covers; `[spatial...]`."""
    grids = []
    for axis, length in enumerate(size):
        low, high = found.pads[axis]
        starts = np.arange(0, length + low + high - found.extent[axis] + 1, found.strides[axis]) - low
        taps = starts[:, None] + np.arange(found.kernel[axis]) * found.dilations[axis]
        grids.append(((taps >= 0) & (taps < length)).sum(1))
    total = grids[0]
    for grid in grids[1:]:
        total = np.multiply.outer(total, grid)
    return np.asarray(total)
