"""A part of a graph as a PyTorch module whose coded weights are its parameters: what gradient methods train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from tightship.bridges.onnx_to_torch import to_module
from tightship.core import extras
from tightship.core.graph import from_ir
from tightship.core.session import Arrays
from tightship.passes.fed_weights import FedWeight, feed_weights
from tightship.passes.segments import inner_model

if TYPE_CHECKING:
    import onnx_ir
    import torch

    from tightship.passes.streams import Stream

__all__ = ["PartModule", "Tensors", "part_module"]


@dataclass(frozen=True)
class PartModule:
    """`module` maps the values `reads`, in order, to a tuple of the values `gives`.

    `parameters` tells, by the name of a product, the parameter that holds its weight and how it lies there.
    """

    module: torch.nn.Module
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    parameters: dict[str, tuple[str, FedWeight]]


def part_module(
    graph: onnx_ir.Model, reads: Sequence[str], gives: Sequence[str], products: Sequence[str]
) -> PartModule:
    """Convert the part of a graph that computes `gives` from `reads`; weights of `products` become parameters.

    Raises `MissingExtra` without PyTorch, `UnsupportedOperators` where the bridge to it lacks an operator.
    """
    extras.require("torch", "training how weights are rounded")
    inner = inner_model(graph, reads, gives, {})
    fed = feed_weights(inner, products)
    names = tuple(value.name or "" for value in inner.graph.inputs[: len(reads)])
    converted = to_module(from_ir(inner)).content.module
    module = _module(converted, [weight.array for weight in fed.values()], tuple(gives))
    parameters = {name: (f"weight_{index}", weight) for index, (name, weight) in enumerate(fed.items())}
    return PartModule(module, names, tuple(gives), parameters)


def _module(converted: torch.nn.Module, weights: Sequence[np.ndarray], gives: tuple[str, ...]) -> torch.nn.Module:
    import torch

    class Part(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.converted = converted
            for index, weight in enumerate(weights):
                tensor = torch.from_numpy(np.array(weight, np.float32))
                self.register_parameter(f"weight_{index}", torch.nn.Parameter(tensor, requires_grad=False))

        def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            fed = [getattr(self, f"weight_{index}") for index in range(len(weights))]
            outputs = self.converted(*values, *fed)
            return tuple(outputs[name] for name in gives)

    return Part().requires_grad_(False).eval()


class Tensors(Sequence["tuple[torch.Tensor, ...]"]):
    """The batches of a stream as tuples of tensors, each read from disk when it is asked for."""

    def __init__(self, stream: Stream, names: Sequence[str]) -> None:
        self._stream = stream
        self._names = names

    def __len__(self) -> int:
        return self._stream.n_batches

    @overload
    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[torch.Tensor, ...]]: ...

    def __getitem__(self, index: int | slice) -> tuple[torch.Tensor, ...] | list[tuple[torch.Tensor, ...]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return tensors(self._stream.batch(range(len(self))[index]), self._names)


def tensors(batch: Arrays, names: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """Return the named arrays of a batch as tensors."""
    import torch

    return tuple(torch.from_numpy(np.array(batch[name])) for name in names)
