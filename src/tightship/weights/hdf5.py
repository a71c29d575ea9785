"""HDF5: chunked, compressed, with checksums. A file that nobody vouches for is opened in a child process alone.

The child judges it (no links, no storage elsewhere, no bombs) and writes what it holds as safetensors, which is what
this process reads.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tightship.core import extras
from tightship.core.child import run_in_child
from tightship.core.hdf5 import check_arrays
from tightship.errors import InvalidModel, UnsupportedError
from tightship.weights.container import Container, Note, parse_json
from tightship.weights.dtypes import DTYPES
from tightship.weights.safetensors import Safetensors
from tightship.weights.tensors import Data, Tensor, TensorType, Weights

if TYPE_CHECKING:
    import h5py

__all__ = ["Compression", "Hdf5", "unpack"]

Compression = Literal["none", "gzip", "lzf", "blosc"]

_NATIVE = frozenset(name for name, dtype in DTYPES.items() if dtype.native)
_NOTE = "tightship"
"""Attribute of a dataset: its true name, element type and shape, and its digest where chunks have no checksum."""

_CHUNK_BYTES = 2**20
_BLOSC = 32001
_TIMEOUT_S, _CPU_S, _SLOWEST_BYTES_PER_S = 60, 3, 10e6
_KERAS_GROUP = "model_weights"


@dataclass(frozen=True)
class Hdf5(Container):
    """Chunks of about a MiB, each with a Fletcher-32 checksum; `compression` packs them after shuffling their bytes."""

    name: ClassVar[str] = "hdf5"
    suffixes: ClassVar[tuple[str, ...]] = (".h5", ".hdf5")

    compression: Compression = "none"

    def read(self, path: Path, trusted: Sequence[str], stack: ExitStack) -> Weights:
        extras.check("h5py", "reading HDF5")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tightship-")))
        plain = folder / "weights.safetensors"
        more_s = path.stat().st_size / _SLOWEST_BYTES_PER_S
        timeout_s, cpu_s = _TIMEOUT_S + more_s, _CPU_S + more_s  # libhdf5 can loop on damaged files without end
        run_in_child(f"{__name__}:unpack", (path, plain), purpose="reading it", timeout_s=timeout_s, cpu_s=cpu_s)
        return stack.enter_context(Safetensors().open(plain))

    def reopen(self, path: Path) -> AbstractContextManager[Weights]:
        return _opened(path)

    def write(self, weights: Weights, path: Path) -> None:
        h5py = extras.require("h5py", "writing HDF5")
        filters = _filters(self.compression)
        names = set(weights)
        note, keys = Note.of(weights, _NATIVE, lambda name: _is_plain(name, names))
        with h5py.File(path, "w", libver="v110", track_order=True) as root:
            for name, key in keys.items():
                _write_tensor(root, key, name, weights[name], noted=key in note.entries, filters=filters)


def unpack(path: Path, plain: Path) -> None:
    """Write what an HDF5 file holds as safetensors at `plain`; called in a child process."""
    with _opened(path, judged=True) as weights:
        Safetensors().write(weights, plain)


@contextmanager
def _opened(path: Path, judged: bool = False) -> Iterator[Weights]:
    import h5py

    if extras.available("hdf5plugin"):
        import hdf5plugin  # noqa: F401  registers the filters
    with h5py.File(path, "r") as root:
        if judged:
            for _ in check_arrays(path, root, path.stat().st_size, filters=frozenset({_BLOSC}), kinds="fiubcSO"):
                pass
        group = root[_KERAS_GROUP] if isinstance(root.get(_KERAS_GROUP), h5py.Group) else root
        found = [_described(key, dataset) for key, dataset in _datasets(group)]
        entries = {entry.name: entry for entry in found}
        if len(entries) < len(found):
            raise InvalidModel(f"{path}: two tensors have the same name")
        yield Weights({name: entry.type for name, entry in entries.items()}, lambda name: entries[name].load())


@dataclass(frozen=True)
class _Entry:
    """A dataset under its true name, and the digest that its bytes should have (empty: chunks have checksums)."""

    name: str
    type: TensorType
    dataset: h5py.Dataset
    sha256: str

    def load(self) -> Data:
        tensor = _tensor(self.dataset)
        if self.sha256 and hashlib.sha256(tensor.data).hexdigest() != self.sha256:
            raise InvalidModel("its digest is wrong; the file is damaged: fetch it again")
        return tensor.data


def _described(key: str, dataset: h5py.Dataset) -> _Entry:
    kind = _type(dataset)
    if _NOTE not in dataset.attrs:
        return _Entry(key, kind, dataset, "")
    note = parse_json(str(dataset.attrs[_NOTE]))
    wanted = {"name": str, "dtype": str, "shape": list, "sha256": str}
    if not isinstance(note, dict) or not all(isinstance(value, wanted.get(word, ())) for word, value in note.items()):
        raise InvalidModel(f"tensor {key[:80]!r}: the note on it is not as tightship writes it")
    if "dtype" in note:
        kind = TensorType.of(note["dtype"], note.get("shape", ()), kind.n_bytes)
    return _Entry(note.get("name", key), kind, dataset, note.get("sha256", ""))


def _type(dataset: h5py.Dataset) -> TensorType:
    if dataset.shape is None or dataset.dtype.kind in "SO":  # how long texts are is known when they are read
        return _tensor(dataset).type
    if dataset.dtype.name not in _NATIVE:
        raise UnsupportedError(f"elements of type {dataset.dtype} have no place in a container of weights")
    return TensorType.of(dataset.dtype.name, dataset.shape, dataset.size * dataset.dtype.itemsize)


def _tensor(dataset: h5py.Dataset) -> Tensor:
    if dataset.shape is None:
        return Tensor(TensorType.of("uint8", (0,)), b"")
    return Tensor.from_array(np.asarray(dataset[()]))


def _filters(compression: Compression) -> dict[str, Any]:
    if compression == "blosc":
        plugin = extras.require("hdf5plugin", "HDF5 packed by blosc")
        return {**plugin.Blosc(cname="lz4", clevel=5, shuffle=plugin.Blosc.SHUFFLE), "fletcher32": True}
    if compression == "none":
        return {"fletcher32": True}
    return {"compression": compression, "shuffle": True, "fletcher32": True}


def _is_plain(name: str, names: set[str]) -> bool:
    """Whether HDF5 can have a dataset at this path, beside those at the others."""
    parts = name.split("/")
    sound = all(part and part != "." and part.isprintable() for part in parts)
    return sound and not any("/".join(parts[:end]) in names for end in range(1, len(parts)))


def _write_tensor(root: h5py.File, key: str, name: str, tensor: Tensor, noted: bool, filters: dict[str, Any]) -> None:
    kind = tensor.type
    array = tensor.array() if kind.dtype in _NATIVE else np.frombuffer(tensor.data, np.uint8)
    note: dict[str, Any] = {"name": name, "dtype": kind.dtype, "shape": kind.shape} if noted else {}
    if array.size and array.ndim:
        dataset = root.create_dataset(key, data=array, chunks=_chunks(array.shape, array.itemsize), **filters)
    else:  # HDF5 has no chunks, and so no checksums, where there is no axis or no element
        dataset = root.create_dataset(key, data=array)
        note["sha256"] = hashlib.sha256(tensor.data).hexdigest()
    if note:
        dataset.attrs[_NOTE] = json.dumps(note)


def _chunks(shape: tuple[int, ...], n_bytes: int) -> tuple[int, ...]:
    """Whole rows of the last axes, about a MiB of them."""
    chunks = []
    for dim in reversed(shape):
        chunks.append(max(1, min(dim, _CHUNK_BYTES // n_bytes)))
        n_bytes *= chunks[-1]
    return tuple(reversed(chunks))


def _datasets(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset with its path, each once; a group that lies in itself is not entered again."""
    import h5py

    pending, seen = [(prefix, group)], {h5py.h5o.get_info(group.id).addr}
    while pending:
        prefix, here = pending.pop(0)
        for key in here:
            entry = here[key]
            if isinstance(entry, h5py.Dataset):
                yield prefix + key, entry
            elif (address := h5py.h5o.get_info(entry.id).addr) not in seen:
                seen.add(address)
                pending.append((f"{prefix}{key}/", entry))
