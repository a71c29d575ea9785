"""The tensors of a checkpoint that lies in one safetensors file or several: found by name, read one at a time.

The index is hostile input: what it names must lie in the checkpoint's own folder, and must hold what it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tightship.core.safetensors_header import Extent, read_header
from tightship.core.sound_json import parse_json
from tightship.errors import ArtifactNotFound, InvalidModel, TightshipError

__all__ = ["CONFIG", "Checkpoint", "Stored", "checkpoint_files", "read_table"]

CONFIG = "config.json"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_JSON_BYTES = 100_000_000
_MAX_SHARDS = 10_000

_NUMPY = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int32": "<i4", "int64": "<i8", "uint8": "u1"}
"""How bytes of the types that decoders use are looked at; bfloat16 as the upper half of a float32."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, which is looked at only when `array` is called, and never kept."""

    name: str
    path: Path
    extent: Extent

    @property
    def dtype(self) -> str:
        return self.extent.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.extent.shape

    def raw(self) -> np.ndarray:
        """The numbers as they lie in the file, mapped; bfloat16 as uint16. Raises `InvalidModel` if it was cut."""
        dtype = np.dtype(_NUMPY[self.dtype])
        if not self.extent.n_bytes:
            return np.empty(self.shape, dtype)
        try:
            return np.memmap(self.path, dtype, "r", self.extent.start, self.shape)
        except (OSError, ValueError) as error:
            raise InvalidModel(f"{self.path}: tensor {self.name!r} can no longer be read: {error}") from error

    def floats(self) -> np.ndarray:
        """The numbers as float32. Raises `InvalidModel` where one is NaN or infinite."""
        raw = self.raw()
        if self.dtype == "bfloat16":
            widened = raw.astype(np.uint32)
            widened <<= 16
            array = widened.view(np.float32)
        else:
            array = raw.astype(np.float32, copy=False)
        if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            raise InvalidModel(f"{self.path}: weight {self.name!r} holds NaN or infinity; the training went wrong")
        return array


@dataclass(frozen=True)
class Checkpoint:
    """Every tensor of a checkpoint by name."""

    folder: Path
    tensors: Mapping[str, Stored]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the headers of all shards. Raises `InvalidModel` where they are damaged or do not fit the index."""
        tensors: dict[str, Stored] = {}
        for path in shards(folder):
            with naming(path), path.open("rb") as file:
                header = read_header(file, path.stat().st_size)
            twice = next((name for name in header.tensors if name in tensors), None)
            if twice is not None:
                raise InvalidModel(f"{path}: tensor {twice[:80]!r} lies in {tensors[twice].path.name} too")
            tensors.update({name: Stored(name, path, extent) for name, extent in header.tensors.items()})
        _check_index(folder, tensors)
        return cls(folder, tensors)


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that a checkpoint consists of beside its configuration.

    Raises `ArtifactNotFound` where weights are missing, `InvalidModel` where the index leads out of the folder.
    """
    index = folder / _INDEX
    return (*((index,) if not (folder / _SINGLE).is_file() else ()), *shards(folder))


def shards(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a checkpoint, sorted."""
    if (folder / _SINGLE).is_file():
        return (folder / _SINGLE,)
    if not (folder / _INDEX).is_file():
        raise ArtifactNotFound(
            f"{folder}: neither {_SINGLE} nor {_INDEX}; weights of another kind are saved as safetensors by "
            "transformers' save_pretrained"
        )
    names = sorted(set(_weight_map(folder).values()))
    return tuple(_contained(folder, name) for name in names)


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table. Raises `InvalidModel`."""
    with naming(path):
        size = path.stat().st_size
        if size > _MAX_JSON_BYTES:
            raise InvalidModel(f"{size} bytes; a configuration has a few thousand")
        table = parse_json(path.read_bytes().decode(errors="replace"))
        if not isinstance(table, dict):
            raise InvalidModel(f"expected a table, found {type(table).__name__}")
    return table


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path before the message of an error, and give those of the system a type of ours."""
    try:
        yield
    except TightshipError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read: {error.strerror or error}") from error


def _weight_map(folder: Path) -> dict[str, str]:
    found = read_table(folder / _INDEX).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()) or not found:
        raise InvalidModel(f"{folder / _INDEX}: its weight_map is no table of file names by tensor")
    if len(set(found.values())) > _MAX_SHARDS:
        raise InvalidModel(f"{folder / _INDEX}: more than {_MAX_SHARDS} files")
    return found


def _contained(folder: Path, name: str) -> Path:
    """The file `name`, after making sure that opening it cannot reach outside `folder`."""
    if Path(name).name != name or not name.endswith(".safetensors") or not name.isprintable() or "\\" in name:
        raise InvalidModel(f"{folder / _INDEX}: expected names of safetensors files beside it, found {name[:80]!r}")
    path = folder / name
    if not path.is_file():
        raise ArtifactNotFound(f"{path}: the index names it, but it is missing; fetch the whole checkpoint")
    return path


def _check_index(folder: Path, tensors: Mapping[str, Stored]) -> None:
    if (folder / _SINGLE).is_file():
        return
    wrong = [
        name for name, file in _weight_map(folder).items() if name not in tensors or tensors[name].path.name != file
    ]
    if wrong:
        listed = ", ".join(repr(name[:80]) for name in wrong[:10])
        raise InvalidModel(f"{folder / _INDEX}: {len(wrong)} tensors are not where it says: {listed}")
