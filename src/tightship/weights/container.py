"""What a container of weights is, and the note that lets it carry what it has no type or name for."""

from __future__ import annotations

import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from tightship.core.sound_json import parse_json
from tightship.errors import ArtifactNotFound, InvalidModel, TightshipError
from tightship.weights.tensors import Data, TensorType, Weights

__all__ = ["NOTE", "Container", "Note", "parse_json"]

NOTE = "__tightship__"
"""Key of the note, where a container keeps it among its tensors."""


@dataclass(frozen=True)
class Container(ABC):
    """One kind of file that holds tensors by name. What can be chosen in writing are the fields of the dataclass."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    @contextmanager
    def open(self, path: str | Path, trusted: Sequence[str] = ()) -> Iterator[Weights]:
        """Open a file that nobody vouches for. `trusted` are names that a pickle may mention (see `pickle_machine`).

        Raises `InvalidModel` where it is damaged or hostile, here or when a tensor is loaded.
        """
        with ExitStack() as stack:
            with _named_errors(Path(path), self.name):
                found = self.read(Path(path), trusted, stack)
            yield replace(found, load=_typed(found.load), where=f"{path}: ")

    @abstractmethod
    def read(self, path: Path, trusted: Sequence[str], stack: ExitStack) -> Weights:
        """Find the tensors of a file; what has to stay open is entered into `stack`."""

    @abstractmethod
    def write(self, weights: Weights, path: Path) -> None:
        """Write tensor by tensor at `path`; no more than the largest is in memory.

        Raises `UnsupportedError` where a name cannot be written.
        """

    def reopen(self, path: Path) -> AbstractContextManager[Weights]:
        """Open a file that this process has just written itself."""
        return self.open(path)


@dataclass(frozen=True)
class Note:
    """What a container holds as plain bytes in place of a tensor: by key, its true name, element type and shape."""

    entries: Mapping[str, tuple[str, str, tuple[int, ...]]]

    @classmethod
    def of(cls, weights: Weights, native: Iterable[str], plain: Callable[[str], bool]) -> tuple[Note, dict[str, str]]:
        """The note for a container with the `native` types and `plain` names, and the key of each tensor in it."""
        native, entries, keys = frozenset(native), {}, {}
        taken = set(weights)
        for index, (name, kind) in enumerate(weights.types.items()):
            key = name if plain(name) else _free(f"__{index}__", taken)
            keys[name] = key
            if key != name or kind.dtype not in native:
                entries[key] = (name, kind.dtype, kind.shape)
        return cls(entries), keys

    def __bool__(self) -> bool:
        return bool(self.entries)

    def text(self) -> str:
        """The note as JSON."""
        rows = {
            key: {"name": name, "dtype": dtype, "shape": shape} for key, (name, dtype, shape) in self.entries.items()
        }
        return json.dumps(rows)

    @classmethod
    def parse(cls, text: str | bytes) -> Note:
        """Read a note. Raises `InvalidModel` where it is none."""
        rows = parse_json(text)
        if not isinstance(rows, dict) or not all(map(_is_row, rows.values())):
            raise InvalidModel("the note on its tensors is not as tightship writes it")
        return cls({key: (row["name"], row["dtype"], tuple(row["shape"])) for key, row in rows.items()})

    def apply(self, found: Mapping[str, TensorType]) -> tuple[dict[str, TensorType], dict[str, str]]:
        """Types by true name, and the key of each. Raises `InvalidModel` where the note does not fit."""
        missing = [key for key in self.entries if key not in found]
        if missing:
            raise InvalidModel(f"the note on its tensors speaks of {missing[0][:80]!r}, which is not there")
        types, keys = {}, {}
        for key, kind in found.items():
            name, dtype, shape = self.entries.get(key, (key, kind.dtype, kind.shape))
            if name in types:
                raise InvalidModel(f"two tensors are called {name[:80]!r}")
            types[name], keys[name] = TensorType.of(dtype, shape, kind.n_bytes), key
        return types, keys


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("name"), str)
        and isinstance(row.get("dtype"), str)
        and isinstance(row.get("shape"), list)
    )


def _free(key: str, taken: set[str]) -> str:
    while key in taken:
        key = f"_{key}_"
    taken.add(key)
    return key


_FOREIGN = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError),
    *(NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error),
)
"""What libraries raise on damaged files."""


@contextmanager
def _named_errors(path: Path, container: str) -> Iterator[None]:
    """Put the path before the message of an error, and give foreign errors a type of ours."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no plain file" if path.exists() else "no such file"
        raise ArtifactNotFound(f"{path}: expected a file of weights ({container}), found {found}")
    try:
        yield
    except TightshipError as error:
        raise type(error)(f"{path}: {error}") from error
    except _FOREIGN as error:
        raise InvalidModel(f"{path}: not a sound {container} file, or cut short: {_reason(error)}") from error


def _typed(load: Callable[[str], Data]) -> Callable[[str], Data]:
    def loading(name: str) -> Data:
        try:
            return load(name)
        except _FOREIGN as error:
            raise InvalidModel(f"damaged, or cut short: {_reason(error)}") from error

    return loading


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
