"""Exported programs: a module traced by torch.export, and one read from a `.pt2` file."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightship.core.model import Model, TorchModule
from tightship.core.pt2_archive import check_archive
from tightship.core.torch_module import BATCH, by_position, exportable, from_torch, input_names
from tightship.errors import InvalidModel, UnsupportedError

if TYPE_CHECKING:
    import torch

__all__ = ["export", "has_batch", "quiet_torch", "read_pt2"]


def read_pt2(path: Path) -> Model:
    """Read what torch.export.save wrote, after `check_archive` has found that it holds data only.

    Raises `InvalidModel` where the file is damaged, hostile or has no example inputs, and `UnsupportedOperators`
    where it calls operators of other libraries.
    """
    import torch

    check_archive(path)
    try:
        with quiet_torch():
            program = torch.export.load(str(path))
            # Guards are Python source in the file; the shapes of the inputs are checked without them.
            module = program.module(check_guards=False)
    except Exception as error:  # the loader raises what its parts raise, SyntaxError and AssertionError included
        raise InvalidModel(f"{path}: torch.export cannot load it: {_reason(error)}") from error
    return from_torch(*_positional(path, program, module))


def has_batch(model: Model) -> bool:
    """Whether every input of the module may have any number of items along axis 0."""
    return all(spec.shape[:1] == (BATCH,) for spec in model.inputs)


def export(model: Model, batch: bool) -> torch.export.ExportedProgram:
    """Trace the module on its example inputs, with any number of items where `batch`, else with theirs.

    Raises `UnsupportedError` where torch.export cannot trace it.
    """
    import torch

    content: TorchModule = model.content
    module, examples = exportable(model), content.example_inputs
    if batch and len(examples[0]) < 2:  # torch.export takes a length of 1 for a constant
        examples = tuple(torch.cat([tensor, tensor]) for tensor in examples)
    try:
        with quiet_torch():
            program = torch.export.export(module, examples, dynamic_shapes=_shapes(module, examples) if batch else None)
            program.example_inputs = (content.example_inputs, {})
    except Exception as error:  # torch.export raises what the module's own code and its parts raise
        raise UnsupportedError(
            f"torch.export cannot trace {type(content.module).__name__}: {_advice(error)}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine that it was exported on
    return program


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep what torch prints, logs and warns about its own inside from the user for the length of the block."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    unseen = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(unseen), redirect_stderr(unseen):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _shapes(module: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    import torch

    axes = {0: torch.export.Dim(BATCH)}
    bound = inspect.signature(module.forward).bind(*examples).arguments
    return {name: (axes,) * len(value) if isinstance(value, tuple) else axes for name, value in bound.items()}


def _positional(
    path: Path, program: torch.export.ExportedProgram, module: torch.nn.Module
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """Return the module and its example inputs as the module form calls it: every input by position."""
    import torch

    positions, keywords = program.example_inputs or ((), {})
    examples: tuple[Any, ...] = (*positions, *keywords.values())
    if not examples or not all(isinstance(value, torch.Tensor) for value in examples):
        found = ", ".join(type(value).__name__ for value in examples) or "none"
        raise InvalidModel(f"{path}: expected tensors as example inputs, found {found}; export it with some")
    if keywords:
        module = by_position(module, (*input_names(module, len(positions)), *keywords), len(keywords))
    return module, tuple(value.detach() for value in examples)


def _advice(error: Exception) -> str:
    if f"({BATCH})" in str(error):
        return "its forward makes the number of items a constant, as len(x) or int() do; take x.shape[0] as it is"
    return f"{_reason(error)}; its forward must not choose what to do by the values of tensors"


def _reason(error: Exception) -> str:
    """The first paragraph of what torch says, as one line."""
    return " ".join(str(error).strip().partition("\n\n")[0].split())[:400] or type(error).__name__
