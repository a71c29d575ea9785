"""A model in memory that can be transformed: a value with a form, its specs and the steps that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from tightship.core.specs import TensorSpec

if TYPE_CHECKING:
    import onnx_ir
    import torch

__all__ = ["Form", "Model", "Step", "TorchModule"]

Form = Literal["graph", "module", "keras"]


@dataclass(frozen=True)
class Step:
    """One thing done to a model: the name of a pass or bridge and its parameters (plain TOML values)."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.parameters:
            return self.name
        return f"{self.name}({', '.join(f'{key}={_brief(value)}' for key, value in self.parameters.items())})"


@dataclass(frozen=True)
class TorchModule:
    """Content of the `module` form: a module in eval mode and the example inputs it is called with, in order."""

    module: torch.nn.Module
    example_inputs: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Model:
    """A model in one of three forms; passes take one and return another, and never change what they were given.

    `content` is an `onnx_ir.Model` (form `graph`), a `TorchModule` (`module`) or a `keras.Model` (`keras`).
    """

    form: Form
    content: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    history: tuple[Step, ...] = ()

    @property
    def graph(self) -> onnx_ir.Model:
        """The content of a model of the graph form; a model of another form is a programming error."""
        if self.form != "graph":
            raise TypeError(f"expected a model of the graph form, found {self.form}")
        return self.content

    def after(self, step: Step, content: Any) -> Model:
        """Return the model with new content of the same form and interface, and `step` added to its history."""
        return replace(self, content=content, history=(*self.history, step))


def _brief(value: object) -> str:
    if isinstance(value, list | tuple) and len(value) > 1:
        return f"[{len(value)} items]"
    return str(value)
