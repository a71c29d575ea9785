"""One layer of a spec as the functions of the table see it: its parameters, its inputs, and its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.errors import InvalidModel
from tightship.formats.neural_network import weights
from tightship.formats.neural_network.network import Network

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Build", "Layer"]


@dataclass(frozen=True)
class Layer:
    """A layer: `kind` is its type's name in the proto, `params` that type's message."""

    kind: str
    name: str
    params: Any
    inputs: tuple[onnx_ir.Value, ...]
    output_count: int
    sequences: bool
    """Whether values have the axes [Sequence, Batch, C, H, W] (the sequence left out where it is 1)."""

    scope: Mapping[str, onnx_ir.Value]
    """All values that are known by name where the layer stands."""

    nested: Callable[[Network, Any, dict[str, onnx_ir.Value]], None]
    """Adds the layers of a network inside this layer; the names that they give are added to the dictionary."""

    def take(self, least: int, most: int | None = None) -> tuple[onnx_ir.Value, ...]:
        """Return the inputs; raises `InvalidModel` where there are fewer than `least` or more than `most`."""
        most = least if most is None else most
        if not least <= len(self.inputs) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise InvalidModel(f"layer {self.name!r} ({self.kind}): expected {wanted} inputs, found {len(self.inputs)}")
        return self.inputs

    @property
    def x(self) -> onnx_ir.Value:
        """The only input."""
        return self.take(1)[0]

    def weight(self, field: str, shape: Sequence[int], channel_axis: int = 0, message: Any = None) -> np.ndarray:
        """Read the weights of a field as float32 in this shape; quantization scales lie along `channel_axis`."""
        found = getattr(self.params if message is None else message, field)
        what = f"layer {self.name!r} ({self.kind}): {field}"
        return weights.array(found, [int(dim) for dim in shape], channel_axis, what)

    def amounts(self, field: str, default: int, count: int = 2) -> list[int]:
        """Read a repeated field of positive integers ([H, W]), `default` where it is not set."""
        found = [int(value) for value in getattr(self.params, field)] or [default] * count
        if len(found) != count or not all(0 < value < 2**31 for value in found):
            raise InvalidModel(
                f"layer {self.name!r} ({self.kind}): {field}: expected {count} positive integers, found {found}"
            )
        return found

    def choice(self, field: str) -> str:
        """Read an enumeration by name."""
        found = self.params.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
        number = getattr(self.params, field)
        if number not in found:
            raise InvalidModel(f"layer {self.name!r} ({self.kind}): {field}: found the unknown value {number}")
        return str(found[number].name)

    def refuse(self, why: str) -> InvalidModel:
        """Return the error that says what is wrong with this layer."""
        return InvalidModel(f"layer {self.name!r} ({self.kind}): {why}")


Build = Callable[[Network, Layer], "onnx_ir.Value | Sequence[onnx_ir.Value]"]
"""What a row of the table does: add the layer's operators, return its results."""
