"""State dicts: tensors by parameter name, read from a weights file and put into a module."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightship.core import extras
from tightship.core.torch_files import check_zip, load_data
from tightship.errors import ArtifactNotFound, InvalidModel, nearest

if TYPE_CHECKING:
    import torch

__all__ = ["WEIGHT_SUFFIXES", "check_weights", "load_state", "read_state"]

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".th")

_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the state dict in a checkpoint, the commonest first."""

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of every name in a state dict of nn.DataParallel and of torch.compile."""

_LISTED = 10


def check_weights(path: Path) -> Path:
    """Return `path`. Raises `ArtifactNotFound` or, where the suffix is not of a weights file, `InvalidModel`."""
    if not path.is_file():
        raise ArtifactNotFound(f"{path}: no such weights file")
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        raise InvalidModel(f"{path}: expected weights in a file {', '.join(WEIGHT_SUFFIXES)}, found {path.suffix!r}")
    return path


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict; checkpoints around it and prefixes of wrappers are taken off.

    Raises `InvalidModel` where the file is damaged, holds no tensors, or is a pickle that wants to run code.
    """
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    if zipfile.is_zipfile(path):  # else the format before torch 1.6, or garbage
        check_zip(path)
    return _without_wrappers(_tensors(path, load_data(path, str(path))))


def load_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copy `state` into `module`. Raises one `InvalidModel` that lists every tensor that does not fit."""
    import torch

    own = module.state_dict()
    misshaped = [
        f"{name} (model {tuple(own[name].shape)}, file {tuple(tensor.shape)})"
        for name, tensor in state.items()
        if name in own and not _is_lazy(own[name]) and own[name].shape != tensor.shape
    ]
    # Counters of batches were not saved before torch 0.4.1, and inference does not read them.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [f"{name}{nearest(name, missing)}" for name in list(state)[:1000] if name not in own]
    found = {"missing from the file": missing, "not in the model": unexpected, "of another shape": misshaped}
    if any(found.values()):
        listed = "; ".join(_listed(names, what) for what, names in found.items() if names)
        raise InvalidModel(
            f"{source}: its {len(state)} tensors do not fit {type(module).__name__} with {len(own)}: {listed}; "
            "give the weights of this network, or build the network that they were trained with"
        )
    with torch.no_grad():
        module.load_state_dict(state, strict=False)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    safetensors = extras.require("safetensors.torch", "reading .safetensors weights")
    try:
        state: dict[str, torch.Tensor] = safetensors.load_file(path)
    except Exception as error:  # SafetensorError, or OSError on an empty file
        raise InvalidModel(f"{path}: not a safetensors file, or damaged: {error}") from error
    return _without_wrappers(state)


def _tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    import torch

    for key in _CHECKPOINT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise InvalidModel(f"{path}: expected a state dict (tensors by name), found a {type(content).__name__}")
    strangers = [f"{name}: {type(value).__name__}" for name, value in content.items() if not _is_tensor(name, value)]
    if strangers or not content:
        found = _listed(strangers, "other entries") if strangers else "nothing"
        raise InvalidModel(
            f"{path}: expected a state dict (tensors by name), or one under {' or '.join(_CHECKPOINT_KEYS)}, "
            f"found {found}; save the weights alone with torch.save(model.state_dict(), path)"
        )
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _is_tensor(name: object, value: object) -> bool:
    import torch

    return isinstance(name, str) and isinstance(value, torch.Tensor)


def _is_lazy(tensor: torch.Tensor) -> bool:
    import torch

    return bool(torch.nn.parameter.is_lazy(tensor))


def _without_wrappers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = next((prefix for prefix in _WRAPPERS if state and all(name.startswith(prefix) for name in state)), "")
    if not prefix:
        return state
    return _without_wrappers({name.removeprefix(prefix): tensor for name, tensor in state.items()})


def _listed(names: list[str], what: str) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {what}: {', '.join(names[:_LISTED])}{more}"
