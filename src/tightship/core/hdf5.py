"""HDF5 files of Keras, judged by structure and read once from end to end, before Keras sees them.

`inspect_hdf5` runs in a child process: libhdf5 is C code that damaged files can crash.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tightship.core.child import run_in_child
from tightship.errors import InvalidModel

if TYPE_CHECKING:
    import h5py

__all__ = ["check_arrays", "check_hdf5", "inspect_hdf5"]

_MAX_OBJECTS = 1_000_000
_MAX_CONFIG_BYTES = 2**26
_BLOCK_BYTES = 2**24
_TIMEOUT_S, _CPU_S, _SLOWEST_BYTES_PER_S = 60, 3, 10e6
_EXPANSION_FLOOR_BYTES = 2**28
_MAX_EXPANSION = 100
"""Weights may be compressed. What unpacks to more than this times the file, and to 256 MiB, is a bomb."""

_FILTERS = frozenset({1, 2, 3, 32000})  # deflate, shuffle, Fletcher-32, LZF: others load libraries
_KINDS = "fiubSO"
_TEXTS = ("model_config", "keras_version", "backend")


def check_hdf5(path: Path, member: str = "") -> dict[str, Any]:
    """Judge an HDF5 file, or `member` of a zip archive, in a child process; return what `inspect_hdf5` returns.

    Raises `InvalidModel` where it is damaged, crashes libhdf5, refers to other files or would fill the memory.
    """
    # libhdf5 was seen to loop without end on a damaged file.
    more_s = path.stat().st_size / _SLOWEST_BYTES_PER_S
    facts: dict[str, Any] = run_in_child(
        f"{__name__}:inspect_hdf5",
        (path, member),
        purpose=f"reading {path}",
        timeout_s=_TIMEOUT_S + more_s,
        cpu_s=_CPU_S + more_s,
    )
    return facts


def inspect_hdf5(path: Path, member: str) -> dict[str, Any]:
    """Return Keras' attributes of the file as text (`model_config`, `keras_version`, `backend`) and its `groups`."""
    import h5py

    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) if member else path.open("rb") as outer:
            file: IO[bytes] = outer.open(member) if isinstance(outer, zipfile.ZipFile) else outer
            with h5py.File(file, "r") as root:
                for dataset in check_arrays(path, root, size):
                    _read(dataset)
                texts = {name: _text(path, root, name) for name in _TEXTS}
                return {**texts, "groups": sorted(root), "whole": "model_weights" in root}
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, zipfile.BadZipFile, EOFError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidModel(f"{path}: not an HDF5 file as Keras writes, or damaged: {reason}") from error


def check_arrays(
    path: Path, root: h5py.File, size: int, filters: frozenset[int] = frozenset(), kinds: str = _KINDS
) -> Iterator[h5py.Dataset]:
    """Judge an open file of `size` bytes and yield its arrays; `filters` are allowed beside those that Keras uses.

    Raises `InvalidModel` at links, storage elsewhere, foreign types, and what unpacks without bound.
    """
    import h5py

    declared = 0
    for name, entry in _objects(path, root):
        _check_attributes(path, name, entry)
        if isinstance(entry, h5py.Dataset):
            _check_dataset(path, name, entry, _FILTERS | filters, kinds)
            declared += (entry.size or 0) * entry.dtype.itemsize
            if declared > max(_EXPANSION_FLOOR_BYTES, _MAX_EXPANSION * size):
                raise InvalidModel(f"{path}: {size} bytes that unpack to more than {declared}; not opened")
            yield entry


def _objects(path: Path, root: h5py.File) -> Iterator[tuple[str, Any]]:
    """Every group and dataset once. Raises `InvalidModel` at a link to elsewhere."""
    import h5py

    pending: list[tuple[str, Any]] = [("/", root)]
    seen = {h5py.h5o.get_info(root.id).addr}
    while pending:
        name, entry = pending.pop()
        yield name, entry
        if not isinstance(entry, h5py.Group):
            continue
        for key in entry:
            link = entry.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise InvalidModel(
                    f"{path}: {name}{key} is a link to {_aim(link)}; Keras writes none, and it is not followed"
                )
            child = entry[key]
            if not isinstance(child, h5py.Group | h5py.Dataset):
                raise InvalidModel(f"{path}: {name}{key} is neither a group nor an array")
            address = h5py.h5o.get_info(child.id).addr
            if address not in seen:  # a group may be linked into itself
                seen.add(address)
                pending.append((f"{name}{key}/", child))
        if len(seen) > _MAX_OBJECTS:
            raise InvalidModel(f"{path}: more than {_MAX_OBJECTS} objects")


def _aim(link: Any) -> str:
    return f"{getattr(link, 'filename', 'the same file')}:{getattr(link, 'path', '?')}"


def _check_dataset(path: Path, name: str, dataset: h5py.Dataset, filters: frozenset[int], kinds: str) -> None:
    if dataset.external or dataset.is_virtual:
        raise InvalidModel(
            f"{path}: {name} keeps its numbers in other files; Keras writes none such, and they are not read"
        )
    properties = dataset.id.get_create_plist()
    used = (properties.get_filter(index) for index in range(properties.get_nfilters()))
    foreign = [name.decode(errors="replace") or str(code) for code, _, _, name in used if code not in filters]
    if foreign:
        raise InvalidModel(f"{path}: {name} is packed by {', '.join(foreign)}, which Keras does not write")
    if dataset.dtype.kind not in kinds or (dataset.dtype.kind == "O" and not _is_text(dataset.dtype)):
        raise InvalidModel(f"{path}: {name} holds {dataset.dtype}, expected numbers or text")


def _check_attributes(path: Path, name: str, entry: Any) -> None:
    for key in entry.attrs:
        if int(np.prod(entry.attrs.get_id(key).shape or ())) > _MAX_OBJECTS:
            raise InvalidModel(f"{path}: attribute {key!r} of {name} is too long")
        entry.attrs[key]


def _is_text(dtype: np.dtype[Any]) -> bool:
    import h5py

    return h5py.check_string_dtype(dtype) is not None


def _read(dataset: h5py.Dataset) -> None:
    """Read all of it in blocks, so that what crashes or is damaged does so here."""
    if not dataset.shape or not dataset.size:
        dataset[()]
        return
    rows = max(1, _BLOCK_BYTES * len(dataset) // max(1, dataset.size * dataset.dtype.itemsize))
    for start in range(0, len(dataset), rows):
        dataset[start : start + rows]


def _text(path: Path, root: h5py.File, name: str) -> str:
    value = root.attrs.get(name, "")
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if len(text) > _MAX_CONFIG_BYTES:
        raise InvalidModel(f"{path}: its {name} is longer than {_MAX_CONFIG_BYTES} bytes")
    return text
