"""What a tensor looks like from outside: its name, element type and shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Dim", "TensorSpec"]

Dim = int | str
"""One axis: its length, or the name of a length that is known only when the model runs (`"batch"`, `"?"`)."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name (`float32`, `int64`, `bfloat16`, `str`) and shape of one input or output."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    @property
    def static(self) -> bool:
        """Whether every axis has a known length."""
        return all(isinstance(dim, int) for dim in self.shape)

    @property
    def batch(self) -> int | None:
        """Length of axis 0, or None where any length is taken; scalars have a batch of 1."""
        if not self.shape:
            return 1
        return self.shape[0] if isinstance(self.shape[0], int) else None

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape may be fed."""
        return len(shape) == len(self.shape) and all(
            not isinstance(want, int) or want == got for want, got in zip(self.shape, shape, strict=True)
        )

    def resolve(self, length: int = 1) -> tuple[int, ...]:
        """Return the shape with `length` in place of every unknown axis."""
        return tuple(dim if isinstance(dim, int) else length for dim in self.shape)

    def n_elements(self, length: int = 1) -> int:
        """Number of elements when unknown axes have this length."""
        return math.prod(self.resolve(length))

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(str(dim) for dim in self.shape)}]"
