"""What stands for a graph's value while the Keras model is built.

A constant is a numpy array; all else is one of the classes here. A `Tensor` remembers in which order its axes lie, so
that an ONNX Transpose costs nothing and convolutions, which TensorFlow computes channels-last, need no transposes
between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = [
    "LACKING",
    "Axes",
    "Free",
    "Number",
    "Numbers",
    "Rounding",
    "Tensor",
    "Unsupported",
    "Value",
    "dtype_of",
    "rank_of",
    "static",
]

Axes = tuple[int, ...]
"""Where each axis of the graph's value lies in the Keras tensor: `axes[logical] == physical`."""


LACKING = frozenset(
    {"STRING", "INT2", "UINT2", "INT4", "UINT4", "FLOAT4E2M1", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"}
)
"""Element types of ONNX, as onnx_ir names them, that Keras has no counterpart of or no functions for."""


class Unsupported(Exception):
    """A node that Keras cannot express; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A Keras tensor and the order of its axes; channels-last images `[N, C, H, W]` have the axes (0, 3, 1, 2)."""

    value: Any
    axes: Axes
    arranged: dict[Axes, Any] = field(default_factory=dict, repr=False)
    """The same tensor after the transposes that were asked for already, by their permutation."""
    rounded_from: Rounding | None = None
    """Of codes: what they are codes of."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Lengths in the graph's order; None where only the run tells."""
        return tuple(self.value.shape[axis] for axis in self.axes)

    @property
    def rank(self) -> int:
        return len(self.axes)

    @property
    def dtype(self) -> str:
        return str(self.value.dtype)

    @property
    def straight(self) -> bool:
        """Whether the axes lie in the graph's order."""
        return self.axes == tuple(range(self.rank))


@dataclass(frozen=True)
class Rounding:
    """A tensor rounded to 8 bits with one scale: `code = round(tensor / scale) + zero_point`, from `low` to `high`."""

    tensor: Tensor
    scale: float
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Free:
    """A length that only the run tells: `scale * (length of an axis) + shift`."""

    source: Tensor
    axis: int
    symbol: str | None = None
    scale: int = 1
    shift: int = 0

    def same(self, other: object) -> bool:
        """Whether the other is the same length at every run, as far as names tell."""
        return isinstance(other, Free) and self.key == other.key

    @property
    def key(self) -> tuple[object, int, int]:
        root = self.symbol if self.symbol else (id(self.source.value), self.axis)
        return root, self.scale, self.shift


Number = int | Free


@dataclass(frozen=True)
class Numbers:
    """Integers of which some are free lengths: a shape, a part of one, or arithmetic on them."""

    values: tuple[Number, ...]
    scalar: bool = False
    dtype: str = "int64"

    @property
    def shape(self) -> tuple[int, ...]:
        return () if self.scalar else (len(self.values),)

    def simplified(self) -> Value:
        """Return a constant where no length is free."""
        if any(isinstance(value, Free) for value in self.values):
            return self
        return np.array(self.values, self.dtype).reshape(self.shape)


Value = Tensor | Numbers | np.ndarray | list[Any] | None
"""What a graph's value can be; a list is a sequence, None an input that is left out or an empty optional."""


def rank_of(value: Tensor | np.ndarray) -> int:
    return len(value.shape)


def dtype_of(value: Tensor | np.ndarray) -> str:
    """Return the name of the element type."""
    return value.dtype if isinstance(value, Tensor) else str(value.dtype)


def static(shape: Sequence[int | None], what: str) -> tuple[int, ...]:
    """Return the shape where all of it is known. Raises `Unsupported` where it is not."""
    if any(length is None for length in shape):
        raise Unsupported(f"{what} of shape {list(shape)} is free; fix the input shapes")
    return tuple(int(length) for length in shape if length is not None)
