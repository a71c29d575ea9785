"""Element types of ONNX in PyTorch: which torch type carries each, and arrays to tensors of it.

torch computes in few unsigned types, so uint16 and wider are carried in the next wider signed one (uint64 in int64: its
upper half has no carrier), and types below a byte in a byte. float4 is carried in float32, rounded to its 15 values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["BOUNDARY", "CARRIERS", "carrier", "tensor_of", "type_name"]

CARRIERS: dict[str, str] = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "uint8": "uint8",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
    "complex64": "complex64",
    "complex128": "complex128",
    "uint16": "int32",
    "uint32": "int64",
    "uint64": "int64",
    "int4": "int8",
    "uint4": "uint8",
    "int2": "int8",
    "uint2": "uint8",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "float8e8m0": "float8_e8m0fnu",
    "float4e2m1": "float32",
}
"""ONNX's name of an element type, in lower case, and the torch type that carries it. Strings have none."""

BOUNDARY: dict[str, str] = {"uint16": "uint16", "uint32": "uint32", "uint64": "uint64"}
"""Types that inputs and outputs of the module have although the inside carries them in another."""


def type_name(code: int) -> str:
    """Return ONNX's name of an element type by its number, in lower case: 1 is `float`."""
    import onnx_ir

    return str(onnx_ir.DataType(code).name).lower()


def carrier(name: str) -> torch.dtype:
    """Return the torch type that carries an ONNX type. Raises KeyError for strings."""
    import torch

    dtype: torch.dtype = getattr(torch, CARRIERS[name])
    return dtype


def tensor_of(array: np.ndarray, name: str) -> torch.Tensor:
    """Copy an array (of numpy's or ml_dtypes' type) to a tensor of the carrier of ONNX type `name`."""
    import torch

    dtype = carrier(name)
    shape = array.shape
    if name == "bfloat16" or name.startswith("float8"):
        bits = np.ascontiguousarray(array).view(np.int16 if name == "bfloat16" else np.uint8)
        return torch.from_numpy(np.array(bits)).view(dtype).reshape(shape)
    return torch.from_numpy(np.array(array.astype(CARRIERS[name], order="C"))).reshape(shape)
