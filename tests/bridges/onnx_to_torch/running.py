"""A graph converted to PyTorch and run: what the judge of the node cases calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import helper

from tightship.bridges.onnx_to_torch import to_module
from tightship.bridges.onnx_to_torch.dtypes import BOUNDARY, tensor_of, type_name
from tightship.core import graph
from tightship.core.torch_module import to_numpy

__all__ = ["run"]


def run(model: onnx.ModelProto, inputs: list[Any]) -> Sequence[Any]:
    """Convert the model, run the module in eval mode, and return its outputs in the types that the graph declares."""
    converted = to_module(graph.from_bytes(model.SerializeToString()))
    with torch.no_grad():
        outputs = converted.content.module(*(_tensor(value) for value in inputs))
    return [_array(outputs[info.name], info.type) for info in model.graph.output]


def _tensor(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [_tensor(item) for item in value]
    array = np.asarray(value)
    name = type_name(helper.np_dtype_to_tensor_dtype(array.dtype))
    return torch.from_numpy(array.copy()) if name in BOUNDARY else tensor_of(array, name)


def _array(value: Any, kind: onnx.TypeProto) -> Any:
    if value is None:
        return None
    if kind.HasField("optional_type"):
        return _array(value, kind.optional_type.elem_type)
    if isinstance(value, list | tuple):
        return [_array(item, kind.sequence_type.elem_type) for item in value]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
    if dtype.name.startswith("float8"):
        return value.contiguous().view(torch.uint8).numpy().view(dtype)
    narrow = (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.float4_e2m1fn)
    found = to_numpy(value)
    return found.astype(dtype) if dtype in narrow else found  # torch carries these in wider types
