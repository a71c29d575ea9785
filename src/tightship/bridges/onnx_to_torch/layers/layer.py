"""What a function that makes a layer is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir
    import torch

__all__ = ["LAYERS", "Call", "Layer", "Plain", "layer"]


@dataclass(frozen=True)
class Call:
    """A node, its attributes with defaults filled in, and its inputs as far as they are constants."""

    node: onnx_ir.Node
    opset: int
    attributes: Mapping[str, Any]
    constants: tuple[torch.Tensor | None, ...]
    given: tuple[bool, ...]
    find: Callable[[onnx_ir.Value], torch.Tensor | None]
    """The tensor of any value of the graph that is a constant."""
    share: Callable[[onnx_ir.Value, str], torch.nn.Parameter]
    """A constant as a parameter, one for all layers that read it; in layout `"T"` it is transposed."""

    def parameter(self, index: int, layout: str = "") -> torch.nn.Parameter:
        """Return input `index` as a parameter."""
        value = self.node.inputs[index]
        assert value is not None
        return self.share(value, layout)

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self.given) and self.given[index]

    def constant(self, index: int) -> torch.Tensor | None:
        """Input `index` where it is a constant."""
        return self.constants[index] if index < len(self.constants) else None

    def weights(self, *indices: int) -> bool:
        """Whether these inputs are float constants, or left out."""
        found = [self.constant(index) for index in indices if self.has(index)]
        return all(tensor is not None and tensor.is_floating_point() and tensor.numel() > 0 for tensor in found)


@dataclass(frozen=True)
class Layer:
    """A layer and how it is called: on which inputs, after which function and before which."""

    module: torch.nn.Module
    inputs: tuple[int, ...] = (0,)
    before: tuple[Callable[..., Any], dict[str, Any]] | None = None
    after: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
    arguments: Callable[..., tuple[Any, ...]] = lambda *inputs: inputs
    several: bool = False
    absorbs: onnx_ir.Node | None = None
    """A node that the layer does, too: the addition of its bias."""


@dataclass(frozen=True)
class Plain:
    """A call of torch's own function (or, as text, method): the inputs, together as a list or not, then `settings`."""

    function: Callable[..., Any] | str
    settings: tuple[Any, ...] = ()
    inputs: tuple[int, ...] = (0,)
    as_list: bool = False


Maker = Callable[[Call], Layer | Plain | None]

LAYERS: dict[str, Maker] = {}
"""Operators of ONNX and the functions that make layers and plain calls of them."""


def layer(*names: str) -> Callable[[Maker], Maker]:
    """Enter a function for operators."""

    def enter(function: Maker) -> Maker:
        LAYERS.update(dict.fromkeys(names, function))
        return function

    return enter
