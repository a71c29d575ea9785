"""PyTorch as source: a Python module that a person can read, train and own, and its weights as safetensors."""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.atomic import writing
from tightship.core.model import Form, Model, TorchModule
from tightship.core.torch_code import print_module
from tightship.core.torch_module import from_torch
from tightship.errors import ArtifactNotFound, InvalidModel, UnsupportedError
from tightship.formats.format import Format

if TYPE_CHECKING:
    import torch

__all__ = ["TorchSource"]

_HEAD = '''"""{name}: a PyTorch module. Inputs: {inputs}. Outputs: {outputs}.

    from {stem} import load
    model = load()          # in eval mode, with the weights of {weights}

It needs torch and safetensors.
"""
'''

_TAIL = '''

def load(weights: Path = Path(__file__).with_name("{weights}")) -> {name}:
    """Return the module with its weights, in eval mode; call `train()` on it to train it further."""
    model = {name}()
    load_model(model, weights)
    return model.eval()


def example() -> tuple[{name}, tuple[Tensor, ...]]:
    """Return the module and inputs of the right types and shapes."""
    torch.manual_seed(0)
    return load(), ({examples},)
'''


@dataclass(frozen=True)
class TorchSource(Format):
    """Python source of a PyTorch module beside its weights; written from what was a graph, with its names."""

    name: ClassVar[str] = "torch-source"
    suffixes: ClassVar[tuple[str, ...]] = (".py",)
    reads_into: ClassVar[Form | None] = None
    writes_from: ClassVar[tuple[Form, ...]] = ("module",)
    through: ClassVar[Form | None] = "graph"
    engine: ClassVar[str] = "torch"
    writes_with: ClassVar[tuple[str, ...]] = ("torch", "safetensors")

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        if not Path(source).is_file():
            raise ArtifactNotFound(f"{source}: no such file")
        raise UnsupportedError(
            f"{source}: a Python file is read by naming its function: {Path(source).stem}:example, from its folder"
        )

    def read(self, artifact: Artifact) -> Model:
        raise UnsupportedError(f"{artifact.path}: a Python file is read by naming its function")

    def write(self, model: Model, path: Path) -> Artifact:
        """Write NAME.py and NAME.safetensors. Raises `UnsupportedError` where a layer has no source."""
        extras.require("safetensors", "writing weights as safetensors")
        from safetensors.torch import save_model

        content: TorchModule = model.content
        weights = path.with_suffix(".safetensors")
        text = _source(model, path, _class_name(path), weights.name)
        with writing(weights) as temporary:
            save_model(content.module, str(temporary))
        with writing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return Artifact(path, self.name, (weights,))

    def loadable(self, artifact: Artifact) -> Path | Model:
        """The module that the file makes: it is imported, under a name that no other module has."""
        name = f"_tightship_written_{artifact.path.stem}"
        spec = importlib.util.spec_from_file_location(name, artifact.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
            return from_torch(*module.example())
        except Exception as error:  # what was written may fail in any way, and the proof has to say so
            raise InvalidModel(f"{artifact.path.name} does not run: {type(error).__name__}: {error}") from error
        finally:
            del sys.modules[name]


def _source(model: Model, path: Path, name: str, weights: str) -> str:
    import torch

    module: Any = model.content.module
    if not isinstance(module, torch.fx.GraphModule):
        raise UnsupportedError(
            f"{path}: source is written from a module that was a graph, found {type(module).__name__}"
        )
    inputs, outputs = (", ".join(map(str, specs)) for specs in (model.inputs, model.outputs))
    head = _HEAD.format(name=name, inputs=inputs, outputs=outputs, stem=path.stem, weights=weights)
    code = print_module(copy.deepcopy(module), name, (("pathlib", "Path"), ("safetensors.torch", "load_model")))
    examples = ", ".join(_example(tensor) for tensor in model.content.example_inputs)
    tail = _TAIL.format(name=name, weights=weights, examples=examples)
    return f"{head}\n{code.imports}\n\n\n{code.body}\n{tail}"


def _class_name(path: Path) -> str:
    name = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W+|_", path.stem) if part)
    return name if name and name[0].isalpha() else f"Net{name}"


def _example(tensor: torch.Tensor) -> str:
    shape = tuple(tensor.shape)
    if tensor.is_floating_point():
        return f"torch.randn({shape}, dtype={tensor.dtype})"
    if str(tensor.dtype) == "torch.bool":
        return f"torch.ones({shape}, dtype=torch.bool)"
    return f"torch.randint({int(tensor.min())}, {int(tensor.max()) + 1}, {shape}, dtype={tensor.dtype})"
