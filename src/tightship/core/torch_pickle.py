"""Modules that were pickled whole (`torch.save(module, path)`): opened only with the classes that the user has named.

A pickle imports classes and calls them. PyTorch's weights-only reader does so for a list of allowed ones and nothing
else; the list is PyTorch's own layers and what the user trusts by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightship.core.calling import current_directory_importable
from tightship.errors import InvalidModel, UnsupportedError

if TYPE_CHECKING:
    import torch

__all__ = ["classes_to_trust", "holds_module", "read_pickled"]

_OWN = "torch.nn.modules."


def classes_to_trust(path: Path) -> tuple[str, ...]:
    """Return what a pickle would import besides PyTorch's own tensors and layers; nothing of it is run.

    Raises `InvalidModel` where it is no such file.
    """
    import torch

    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception as error:  # unpickling raises what it likes on damaged files
        raise InvalidModel(f"{path}: not a file of torch.save, or cut short: {error}") from error
    return tuple(sorted(name for name in found if not _is_layer(name)))


def holds_module(path: Path) -> bool:
    """Whether a pickle imports anything but tensors and containers, as a module does and a state dict does not."""
    import torch

    try:
        return bool(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # damaged: whoever reads it says so
        return False


def read_pickled(path: Path, trusted: Sequence[str]) -> torch.nn.Module:
    """Read a pickled module whose classes are all PyTorch's layers or in `trusted` (`package.module.Class`).

    Raises `UnsupportedError` that names the others, and `InvalidModel` where the file is damaged or holds no module.
    """
    import torch

    missing = [name for name in classes_to_trust(path) if name not in trusted]
    if missing:
        flags = " ".join(f"--trust-pickle {name}" for name in missing)
        raise UnsupportedError(
            f"{path}: holds a pickled module, and reading it would run code of {', '.join(missing)}; if you trust both "
            f"the file and that code, convert it with {flags}; else save its state_dict and give the network as "
            "package.module:function"
        )
    every = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    allowed = [_imported(path, name) for name in every]
    try:
        with torch.serialization.safe_globals(allowed):
            module = torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # the classes' own code may raise anything
        raise InvalidModel(f"{path}: cannot be unpickled: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise InvalidModel(f"{path}: expected a pickled torch.nn.Module, found a {type(module).__name__}")
    return module.eval()


def _is_layer(name: str) -> bool:
    import torch

    if not name.startswith(_OWN):
        return False
    home, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(home), last, None) if home.count(".") == 3 else None
    return isinstance(found, type) and issubclass(found, torch.nn.Module)


def _imported(path: Path, name: str) -> Any:
    home, _, last = name.rpartition(".")
    try:
        with current_directory_importable():
            return getattr(importlib.import_module(home), last)
    except (ImportError, AttributeError) as error:
        raise InvalidModel(f"{path}: its class {name} cannot be imported: {error}; install what defines it") from error
