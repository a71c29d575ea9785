"""The element types of weights, by the names that NumPy and ml_dtypes use, and how their elements lie in bytes.

Little-endian throughout. Types below 8 bits are packed, the first element in the lowest bits (as ONNX has them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tightship.core.table import Table

__all__ = ["DTYPES", "STRING", "Dtype"]

STRING = "string"


@dataclass(frozen=True)
class Dtype:
    """An element type: `bits` per element (0 for strings, whose length varies), and whether NumPy itself has it."""

    name: str
    bits: int
    native: bool = False

    @property
    def numpy(self) -> np.dtype[Any]:
        """The type of an array of it, one element per entry; strings have none."""
        if self.native:
            return np.dtype(self.name).newbyteorder("<")
        import ml_dtypes

        kind: np.dtype[Any] = np.dtype(getattr(ml_dtypes, self.name))
        return kind


_NATIVE = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "int64": 64,
    "int32": 32,
    "int16": 16,
    "int8": 8,
    "uint64": 64,
    "uint32": 32,
    "uint16": 16,
    "uint8": 8,
    "bool": 8,
    "complex64": 64,
    "complex128": 128,
}
_FOREIGN = {
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8,
    "float4_e2m1fn": 4,
    "int4": 4,
    "uint4": 4,
    "int2": 2,
    "uint2": 2,
    STRING: 0,
}

DTYPES: Table[Dtype] = Table(
    "element type",
    {
        **{name: Dtype(name, bits, native=True) for name, bits in _NATIVE.items()},
        **{name: Dtype(name, bits) for name, bits in _FOREIGN.items()},
    },
)
