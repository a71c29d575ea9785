"""Example inputs of a converted module: numbers that its operators can take, the same in every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tightship.bridges.onnx_to_torch.dtypes import BOUNDARY, CARRIERS, carrier
from tightship.core.specs import TensorSpec

if TYPE_CHECKING:
    import onnx_ir
    import torch

__all__ = ["example_inputs"]

_BATCH = 2
_SPATIAL = 64
_LENGTH = 8


def example_inputs(specs: Sequence[TensorSpec], graph: onnx_ir.Model) -> tuple[torch.Tensor, ...]:
    """Draw one tensor per input: floats standard normal, integers small and within the tables that they look up.

    A free axis 0 has two items, free axes of images 64 pixels, other free axes 8 items.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    values = {value.name: value for value in graph.graph.inputs}
    return tuple(_draw(spec, values[spec.name], generator) for spec in specs)


def _draw(spec: TensorSpec, value: onnx_ir.Value, generator: torch.Generator) -> torch.Tensor:
    import torch

    name = value.dtype.name.lower() if value.dtype is not None else "float"
    dtype = getattr(torch, BOUNDARY[name]) if name in BOUNDARY else carrier(name)
    shape = _shape(spec)
    if CARRIERS[name].startswith(("float", "bfloat", "complex")):
        return torch.randn(shape, generator=generator).to(dtype)
    high = 2 if name == "bool" else _table_length(value)
    return torch.randint(0, high, shape, generator=generator).to(dtype)


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    length = _SPATIAL if len(spec.shape) > 3 else _LENGTH
    return tuple(
        dim if isinstance(dim, int) else _BATCH if axis == 0 else length for axis, dim in enumerate(spec.shape)
    )


def _table_length(value: onnx_ir.Value) -> int:
    """Rows of the smallest constant table that integers of this input look up, at most 100."""
    lengths = [100]
    for node, index in value.uses():
        table = node.inputs[0]
        if node.op_type in ("Gather", "GatherBlockQuantized") and index == 1 and table is not None and table.shape:
            rows = table.shape[node.attributes.get_int("axis", 0)]
            lengths += [rows] if isinstance(rows, int) and rows > 0 else []
    return min(lengths) if len(lengths) > 1 else 3
