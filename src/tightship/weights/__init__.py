"""Weights as data: one file per container, all read into and written from the same tensors by name."""

from __future__ import annotations

from pathlib import Path

from tightship.core.table import Table
from tightship.errors import UnknownFormat
from tightship.weights.container import Container
from tightship.weights.digest import Tally, digest
from tightship.weights.hdf5 import Hdf5
from tightship.weights.json import Json
from tightship.weights.numpy import Numpy
from tightship.weights.pickle import Pickle
from tightship.weights.safetensors import Safetensors
from tightship.weights.tensors import Tensor, TensorType, Weights
from tightship.weights.torch import Torch

__all__ = [
    "CONTAINERS",
    "Container",
    "Tally",
    "Tensor",
    "TensorType",
    "Weights",
    "container_of",
    "digest",
    "is_container",
]

CONTAINERS: Table[Container] = Table(
    "container", {entry.name: entry for entry in (Safetensors(), Json(), Hdf5(), Numpy(), Pickle(), Torch())}
)


def is_container(path: str | Path) -> bool:
    """Whether the suffix is that of a container."""
    return any(str(path).lower().endswith(entry.suffixes) for entry in CONTAINERS.values())


def container_of(path: str | Path) -> Container:
    """Return the container that the suffix of `path` names. Raises `UnknownFormat` where there is none."""
    for entry in CONTAINERS.values():
        if str(path).lower().endswith(entry.suffixes):
            return entry
    known = ", ".join(suffix for entry in CONTAINERS.values() for suffix in entry.suffixes)
    raise UnknownFormat(f"{path}: no container of weights has this suffix; expected {known}")
