"""A model as a function: `package.module:function` returns a PyTorch module and example inputs, or a Keras model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.calling import current_directory_importable, import_function, is_function_name, module_file
from tightship.core.keras_files import H5_SUFFIXES, read_weights
from tightship.core.model import Form, Model
from tightship.core.torch_module import from_torch
from tightship.errors import ArtifactNotFound, InvalidModel, UnsupportedError, nearest
from tightship.formats.format import Format
from tightship.formats.state import check_weights, load_state, read_state

if TYPE_CHECKING:
    import torch

__all__ = ["PyTorch"]


@dataclass(frozen=True)
class PyTorch(Format):
    """Read from a function without arguments; weights come from a state dict, or Keras' HDF5, beside it."""

    name: ClassVar[str] = "pytorch"
    suffixes: ClassVar[tuple[str, ...]] = ()
    without_suffix: ClassVar[str] = "package.module:function"
    reads_into: ClassVar[Form | None] = "module"
    writes_from: ClassVar[tuple[Form, ...]] = ()
    engine: ClassVar[str] = "torch"
    reads_with: ClassVar[tuple[str, ...]] = ("torch",)

    def recognise(self, source: str) -> bool:
        return is_function_name(source) and not Path(source).exists()

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        companions = () if weights is None else (_check_weights(weights),)
        file = module_file(import_function(source, ArtifactNotFound, InvalidModel))
        if file is None:
            raise InvalidModel(f"{source}: expected a function that lies in a Python file, found one built in")
        return Artifact(file, self.name, companions, source)

    def read(self, artifact: Artifact) -> Model:
        result = _called(artifact.entry)
        if _is_keras(result):
            return read_weights(result, *artifact.companions)
        extras.require("torch", "reading a PyTorch model")
        module, examples = _checked(artifact.entry, result)
        for weights in artifact.companions:
            load_state(module, read_state(weights), weights)
        module = module.cpu().eval()
        return from_torch(module, _ordered(artifact.entry, module, examples))

    def write(self, model: Model, path: Path) -> Artifact:
        raise UnsupportedError(f"{path}: a {model.form} cannot be written as Python source; write a .pt2 file instead")


def _check_weights(path: Path) -> Path:
    if path.suffix.lower() in H5_SUFFIXES:
        if not path.is_file():
            raise ArtifactNotFound(f"{path}: no such weights file")
        return path
    return check_weights(path)


def _is_keras(result: object) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(result, keras.Model)


def _called(entry: str) -> object:
    function = import_function(entry, ArtifactNotFound, InvalidModel)
    try:
        with current_directory_importable():  # the function may import more when it is called
            result = function()
    except Exception as error:  # the user's own code may raise anything
        raise InvalidModel(
            f"{entry}() raises {type(error).__name__}: {error}; it is called without arguments"
        ) from error
    return result


def _checked(entry: str, result: object) -> tuple[torch.nn.Module, Any]:
    import torch

    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], torch.nn.Module):
        return result
    found = (
        f"({', '.join(type(item).__name__ for item in result)})" if isinstance(result, tuple) else type(result).__name__
    )
    raise InvalidModel(f"{entry}() must return (torch.nn.Module, example inputs) or a keras.Model, found {found}")


def _ordered(entry: str, module: torch.nn.Module, examples: object) -> tuple[torch.Tensor, ...]:
    """Return example inputs as tensors on the CPU in the order of forward's parameters."""
    import torch

    if isinstance(examples, Mapping):
        examples = _by_parameter(entry, module, examples)
    values = (examples,) if isinstance(examples, torch.Tensor) else examples
    if not isinstance(values, tuple | list) or not values or not all(isinstance(item, torch.Tensor) for item in values):
        found = type(examples).__name__
        raise InvalidModel(
            f"{entry}() must return a tensor, a tuple or a dict of tensors as example inputs, found {found}"
        )
    return tuple(tensor.detach().cpu() for tensor in values)


def _by_parameter(entry: str, module: torch.nn.Module, examples: Mapping[str, Any]) -> tuple[Any, ...]:
    names = [name for name, parameter in inspect.signature(module.forward).parameters.items() if _positional(parameter)]
    for name in examples:
        if name not in names:
            hint = nearest(str(name), names)
            raise InvalidModel(f"{entry}(): forward takes no input {name!r}{hint}; it takes {', '.join(names)}")
    skipped = [name for name in names[: len(examples)] if name not in examples]
    if skipped:
        raise InvalidModel(
            f"{entry}(): example inputs are passed by position, so none before the last may be left out; "
            f"missing: {', '.join(skipped)}"
        )
    return tuple(examples[name] for name in names[: len(examples)])


def _positional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
