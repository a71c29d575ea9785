"""A PyTorch model as a function: `package.module:function` returns the module and example inputs."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.model import Form, Model
from tightship.core.torch_module import from_torch
from tightship.errors import ArtifactNotFound, InvalidModel, UnsupportedError, nearest
from tightship.formats.format import Format
from tightship.formats.state import check_weights, load_state, read_state

if TYPE_CHECKING:
    import torch

__all__ = ["PyTorch"]

_ENTRY = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")


class PyTorch(Format):
    """Read from a function without arguments; weights come from a state dict beside it."""

    name: ClassVar[str] = "pytorch"
    suffixes: ClassVar[tuple[str, ...]] = ()
    reads_into: ClassVar[Form | None] = "module"
    writes_from: ClassVar[tuple[Form, ...]] = ()

    def recognise(self, source: str) -> bool:
        return _ENTRY.fullmatch(source) is not None and not Path(source).exists()

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        name, _, _ = source.partition(":")
        companions = () if weights is None else (check_weights(weights),)
        return Artifact(_module_file(name), self.name, companions, source)

    def read(self, artifact: Artifact) -> Model:
        extras.require("torch", "reading a PyTorch model")
        with _importable_here():
            module, examples = _checked(artifact.entry, _function(artifact.entry)())
        for weights in artifact.companions:
            load_state(module, read_state(weights), weights)
        module = module.cpu().eval()
        return from_torch(module, _ordered(artifact.entry, module, examples))

    def write(self, model: Model, path: Path) -> Artifact:
        raise UnsupportedError(f"{path}: a {model.form} cannot be written as Python source; write a .pt2 file instead")


@contextmanager
def _importable_here() -> Iterator[None]:
    """Make the modules of the current folder importable, as a script there would have them."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _module_file(name: str) -> Path:
    try:
        with _importable_here():
            found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise InvalidModel(f"importing the package of {name} fails: {error}; install what it needs") from error
        found = None
    except Exception as error:  # a package's own code may raise anything
        raise InvalidModel(f"importing the package of {name} fails: {error}") from error
    if found is None or found.origin is None or not Path(found.origin).is_file():
        hint = nearest(name, _siblings(name))
        raise ArtifactNotFound(f"no module {name!r}{hint} in {Path.cwd()} or among the installed packages")
    return Path(found.origin)


def _siblings(name: str) -> list[str]:
    """Modules beside the one that `name` should be."""
    package, _, _ = name.rpartition(".")
    folder = Path.cwd().joinpath(*package.split("."))
    prefix = f"{package}." if package else ""
    return [prefix + entry.name for entry in pkgutil.iter_modules([str(folder)])]


def _function(entry: str) -> Callable[[], Any]:
    name, _, attribute = entry.partition(":")
    found = getattr(_imported(name), attribute, None)
    if found is None:
        known = [key for key, value in vars(sys.modules[name]).items() if callable(value) and not key.startswith("_")]
        raise ArtifactNotFound(
            f"{name} has no function {attribute!r}{nearest(attribute, known)}; known: {', '.join(known)}"
        )
    if not callable(found):
        raise InvalidModel(f"{entry}: expected a function that returns (module, example inputs), found {found!r}")

    def build() -> Any:
        try:
            return found()
        except Exception as error:  # the user's own code may raise anything
            raise InvalidModel(
                f"{entry}() raises {type(error).__name__}: {error}; it is called without arguments"
            ) from error

    return build


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise InvalidModel(f"importing {name} raises {type(error).__name__}: {error}; make it importable") from error


def _checked(entry: str, result: object) -> tuple[torch.nn.Module, Any]:
    import torch

    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], torch.nn.Module):
        return result
    found = (
        f"({', '.join(type(item).__name__ for item in result)})" if isinstance(result, tuple) else type(result).__name__
    )
    raise InvalidModel(f"{entry}() must return (torch.nn.Module, example inputs), found {found}")


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
