"""What operators of a program work on: typed values, some of them known when the program is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["CARRIERS", "LIMITS", "Operand", "Type", "Unsupported", "carried"]

CARRIERS = {
    "float16": "float32",
    "float32": "float32",
    "float64": "float32",
    "bool": "bool",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "string": "str",
    "uint1": "uint8",
    "uint2": "uint8",
    "uint3": "uint8",
    "uint4": "uint8",
    "uint6": "uint8",
    "int4": "int8",
}
"""Type of a MIL tensor, and the numpy type in which the graph computes it: half precision in single."""

LIMITS = {"bits": 8, "rank": 8}
"""Of one byte, and of the tensors that Core ML knows."""


class Unsupported(Exception):
    """An operator, or a use of one, that has no counterpart; the reason is the message."""


@dataclass(frozen=True)
class Type:
    """Of a tensor: its MIL type and shape, None where a length is not known. Of a list: those of its elements."""

    dtype: str
    shape: tuple[int | None, ...]
    kind: str = "tensor"

    @property
    def carrier(self) -> np.dtype[Any]:
        return np.dtype(CARRIERS[self.dtype])


class Operand:
    """A value of the program under its name: an ONNX value, or an array that becomes one when it is needed.

    `fixed` tells of a list that its length never changes. A `lost` operand comes from an operator without counterpart.
    """

    def __init__(
        self,
        name: str,
        kind: Type,
        *,
        value: onnx_ir.Value | None = None,
        array: Callable[[], np.ndarray] | None = None,
        fixed: bool = False,
        lost: bool = False,
    ) -> None:
        self.name, self.type, self.value, self.fixed, self.lost = name, kind, value, fixed, lost
        self._array = array

    @property
    def rank(self) -> int:
        return len(self.type.shape)

    @property
    def shape(self) -> tuple[int | None, ...]:
        return self.type.shape

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape where it is known. Raises `Unsupported` where it is not."""
        known = tuple(dim for dim in self.type.shape if dim is not None)
        if len(known) != self.rank:
            raise Unsupported(f"the shape of {self.name} is not known before the model runs")
        return known

    @cached_property
    def known(self) -> np.ndarray | None:
        """The array of a constant in the type that carries it, None for anything computed."""
        return None if self._array is None else carried(self._array())

    @property
    def is_known(self) -> bool:
        return self._array is not None

    @property
    def is_float(self) -> bool:
        return self.type.dtype.startswith("float")

    @property
    def is_bool(self) -> bool:
        return self.type.dtype == "bool"

    def axis(self, axis: int) -> int:
        """An axis counted from the front."""
        return axis + self.rank if axis < 0 else axis


def carried(array: np.ndarray) -> np.ndarray:
    """Return an array in the type that the graph computes in."""
    if array.dtype in (np.float16, np.float64):
        return array.astype(np.float32)
    return array
