"""PyTorch's own files, read and written without PyTorch: a zip of a pickle and the bytes of each storage.

Files of before torch 1.6 are another format, which PyTorch reads with `weights_only`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tightship.core import extras
from tightship.core.torch_files import check_zip, load_data
from tightship.errors import InvalidModel, UnsupportedError
from tightship.weights import pickle_words as words
from tightship.weights.container import NOTE, Container, Note
from tightship.weights.dtypes import DTYPES, STRING
from tightship.weights.pickle_machine import Span, run
from tightship.weights.pickle_tensors import STORAGES, refuse_strangers, weights_of
from tightship.weights.tensors import Tensor, TensorType, Weights

__all__ = ["Torch", "from_torch", "is_program"]

_STORAGE_OF = {dtype: storage for storage, dtype in STORAGES.items()}
_NATIVE = frozenset(name for name, dtype in DTYPES.items() if dtype.bits >= 8 and name != STRING)
_PICKLE = "data.pkl"
_MAX_PICKLE_BYTES = 2**28
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Torch(Container):
    """Written so that `torch.load(weights_only=True)` gives a state dict."""

    name: ClassVar[str] = "torch"
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".pth", ".th", ".bin")

    def read(self, path: Path, trusted: Sequence[str], stack: ExitStack) -> Weights:
        if not zipfile.is_zipfile(path):
            return _old(path)
        _without_path(path)
        archive = stack.enter_context(zipfile.ZipFile(path))
        storages = _Archive(archive, *_content(archive))
        with archive.open(f"{storages.prefix}{_PICKLE}") as file:
            root, names = run(file, storages.members[_PICKLE].file_size)
        refuse_strangers(names, trusted)
        return weights_of(root, storages, path.stat().st_size)

    def write(self, weights: Weights, path: Path) -> None:
        note, keys = Note.of(weights, _NATIVE, lambda name: name != NOTE)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_info(_PICKLE), _pickle(weights.types, keys, note))
            archive.writestr(_info("byteorder"), "little")
            for index, name in enumerate(weights):
                with archive.open(_info(f"data/{index}"), "w", force_zip64=True) as member:
                    member.write(weights[name].data)
            archive.writestr(_info("version"), "3\n")


@dataclass(frozen=True)
class _Archive:
    """The storages of an archive; `members` are its entries below `prefix`."""

    archive: zipfile.ZipFile
    prefix: str
    members: Mapping[str, zipfile.ZipInfo]

    def read(self, span: Span) -> bytes:
        with self.archive.open(self.members[_PICKLE]) as file:
            file.seek(span.start)
            return file.read(span.length)

    def size(self, key: str) -> int:
        if f"data/{key}" not in self.members:
            raise InvalidModel(f"its storage {key[:40]!r} is not in the file")
        return self.members[f"data/{key}"].file_size

    def storage(self, key: str) -> bytes:
        return self.archive.read(self.members[f"data/{key}"])


def is_program(path: Path) -> bool:
    """Whether a file of torch is a TorchScript program and not a state dict; only the names of its members are read."""
    if not path.is_file():  # opening a pipe would wait for its other end
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def from_torch(tensor: Any) -> Tensor:
    """The tensor of a `torch.Tensor`. Raises `UnsupportedError` where it is sparse, quantized or has no data."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _NATIVE or tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise UnsupportedError(f"a {tensor.layout} tensor of {tensor.dtype} has no place in a container of weights")
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy()
    return Tensor(TensorType.of(name, tuple(tensor.shape)), memoryview(raw) if raw.size else b"")


def _without_path(path: Path) -> None:
    try:
        check_zip(path)
    except InvalidModel as error:  # the caller names the path
        raise InvalidModel(str(error).removeprefix(f"{path}: ")) from error


def _content(archive: zipfile.ZipFile) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The folder that holds the pickle, and the members below it. Raises `InvalidModel` where it is no state dict."""
    entries = archive.infolist()
    found = [entry.filename for entry in entries if entry.filename.split("/")[1:] == [_PICKLE]]
    if len(found) != 1 or len({entry.filename for entry in entries}) < len(entries):
        raise InvalidModel(
            f"expected one {_PICKLE} as torch.save writes it, found {len(found)}, or names that come twice"
        )
    prefix = found[0].removesuffix(_PICKLE)
    members = {entry.filename.removeprefix(prefix): entry for entry in entries if entry.filename.startswith(prefix)}
    if members[_PICKLE].file_size > _MAX_PICKLE_BYTES:
        raise InvalidModel(f"its {_PICKLE} has {members[_PICKLE].file_size} bytes; tensors lie beside it, not inside")
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
        raise UnsupportedError("its numbers are big-endian; save it anew on a little-endian machine")
    return prefix, members


def _old(path: Path) -> Weights:
    extras.check("torch", "reading a file of torch.save of before torch 1.6")
    import torch

    found: dict[str, Tensor] = {}
    left_out: list[str] = []
    pending: list[tuple[str, Any]] = [("", load_data(path, "it"))]
    while pending:
        name, value = pending.pop()
        if isinstance(value, torch.Tensor):
            found[name.removeprefix(".")] = from_torch(value)
        elif isinstance(value, Mapping | list | tuple) and name.count(".") < 64:
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            pending.extend((f"{name}.{key}", child) for key, child in reversed(list(items)))
        else:
            left_out.append(name.removeprefix("."))
    weights = Weights.of(found)
    return Weights(weights.types, weights.load, tuple(left_out))


def _info(member: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"archive/{member}", _DATE)


def _pickle(types: Mapping[str, TensorType], keys: Mapping[str, str], note: Note) -> bytes:
    parts = [words.PROTOCOL_2, words.EMPTY_DICT, words.MARK]
    for index, (name, kind) in enumerate(types.items()):
        parts += [words.text(keys[name]), *_rebuilt(index, kind)]
    if note:
        parts += [words.text(NOTE), words.text(note.text())]
    return b"".join((*parts, words.SETITEMS, words.STOP))


def _rebuilt(index: int, kind: TensorType) -> Iterator[bytes]:
    """The call of `torch._utils._rebuild_tensor_v2`, or of v3 for types whose storages have no class."""
    as_it_is = kind.dtype in _NATIVE
    dtype, shape = (kind.dtype, kind.shape) if as_it_is else ("uint8", (kind.n_bytes,))
    typed = dtype not in _STORAGE_OF
    yield words.name("torch._utils", "_rebuild_tensor_v3" if typed else "_rebuild_tensor_v2") + words.MARK
    yield words.MARK + words.text("storage")
    yield words.name("torch.storage", "UntypedStorage") if typed else words.name("torch", _STORAGE_OF[dtype])
    yield words.text(str(index)) + words.text("cpu")
    yield words.integer(kind.n_bytes if typed else TensorType.of(dtype, shape).n_elements) + words.TUPLE
    yield words.PERSISTENT + words.integer(0) + words.tuple_of(shape) + words.tuple_of(_strides(shape)) + words.FALSE
    yield words.name("collections", "OrderedDict") + words.EMPTY_TUPLE + words.REDUCE
    yield (words.name("torch", dtype) if typed else b"") + words.TUPLE + words.REDUCE


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape)))
