"""NumPy's `.npz` and `.npy`: a zip of arrays, or one array. Headers are judged and bytes read here; nothing unpickles.

Source: `numpy.lib.format`. Types that NumPy lacks lie in the archive as uint8, and a member of JSON says what they are.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, Literal

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError
from tightship.weights.container import NOTE, Container, Note
from tightship.weights.dtypes import DTYPES
from tightship.weights.tensors import MAX_TENSORS, Data, Tensor, TensorType, Weights

__all__ = ["Numpy"]

_NATIVE = frozenset(name for name, dtype in DTYPES.items() if dtype.native)
_DATE = (1980, 1, 1, 0, 0, 0)
_MAX_EXPANSION, _EXPANSION_FLOOR_BYTES = 100, 2**28
_MAX_NAME_BYTES = 4096
_BLOCK_BYTES = 2**22


@dataclass(frozen=True)
class Numpy(Container):
    """Members are stored as they are, or deflated where `compression` is gzip; both readable by `numpy.load`."""

    name: ClassVar[str] = "numpy"
    suffixes: ClassVar[tuple[str, ...]] = (".npz", ".npy")

    compression: Literal["none", "gzip"] = "none"

    def read(self, path: Path, trusted: Sequence[str], stack: ExitStack) -> Weights:
        if path.suffix.lower() == ".npy":
            return _single(stack.enter_context(path.open("rb")), path)
        archive = stack.enter_context(zipfile.ZipFile(path))
        members = _members(archive, path)
        note = Note.parse(archive.read(members.pop(NOTE))) if NOTE in members else Note({})
        headers = {key: _header_of(archive, member, key) for key, member in members.items()}
        types, keys = note.apply({key: header.type for key, header in headers.items()})
        return Weights(types, lambda name: _load(archive, members[keys[name]], headers[keys[name]]))

    def write(self, weights: Weights, path: Path) -> None:
        if path.suffix.lower() == ".npy":
            raise UnsupportedError(f"{path}: a .npy file holds one array without a name; write an .npz file")
        note, keys = Note.of(weights, _NATIVE, _is_plain)
        method = zipfile.ZIP_DEFLATED if self.compression == "gzip" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, key in keys.items():
                tensor = weights[name]
                with archive.open(_info(f"{key}.npy", method), "w", force_zip64=True) as member:
                    _write_array(tensor, member)
            if note:
                archive.writestr(_info(NOTE, method), note.text())


@dataclass(frozen=True)
class _Header:
    """An array in a file: where its bytes begin, and how NumPy would see them."""

    type: TensorType
    start: int
    dtype: np.dtype[Any]
    by_column: bool


def _info(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = method
    return info


def _is_plain(name: str) -> bool:
    """Whether a member of this name stays in the folder that it is extracted to, on any system."""
    parts = PurePosixPath(name).parts
    sound = (
        bool(name) and name.isprintable() and len(name.encode()) < _MAX_NAME_BYTES and not set(name) & set('\\:*?"<>|')
    )
    return sound and name == "/".join(parts) and not parts[0].startswith("/") and ".." not in parts and name != NOTE


def _write_array(tensor: Tensor, member: IO[bytes]) -> None:
    kind = tensor.type
    as_it_is = kind.dtype in _NATIVE
    dtype = DTYPES[kind.dtype].numpy if as_it_is else np.dtype(np.uint8)
    shape = kind.shape if as_it_is else (kind.n_bytes,)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    data = memoryview(tensor.data)
    for start in range(0, len(data), _BLOCK_BYTES):
        member.write(data[start : start + _BLOCK_BYTES])


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    entries, size = archive.infolist(), path.stat().st_size
    if len(entries) > MAX_TENSORS:
        raise InvalidModel(f"more than {MAX_TENSORS} members")
    unpacked = sum(entry.file_size for entry in entries)
    stored = sum(entry.compress_size for entry in entries)
    if stored > size or unpacked > max(_EXPANSION_FLOOR_BYTES, _MAX_EXPANSION * size):
        raise InvalidModel(f"{size} bytes that unpack to {unpacked}: not opened")
    for entry in entries:
        if not _is_plain(entry.filename.removesuffix(".npy")) and entry.filename != NOTE:
            raise InvalidModel(f"member {entry.filename[:80]!r} would be extracted elsewhere; not opened")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            raise InvalidModel(f"member {entry.filename[:80]!r} is packed in a way that NumPy does not write")
    found = {entry.filename.removesuffix(".npy"): entry for entry in entries}
    if len(found) < len(entries):
        raise InvalidModel("two members have the same name; the file was tampered with")
    return found


def _header_of(archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str) -> _Header:
    try:
        with archive.open(member) as file:
            return _header(file, member.file_size)
    except (InvalidModel, UnsupportedError) as error:
        raise type(error)(f"array {key[:80]!r}: {error}") from error


def _header(file: IO[bytes], size: int) -> _Header:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise InvalidModel(f"version {version} of NumPy's format is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, by_column, dtype = read(file)
    except (SyntaxError, tokenize.TokenError) as error:  # NumPy parses it as Python writes literals
        raise InvalidModel("its header is no description of an array") from error
    start = file.tell()
    if dtype.hasobject:
        raise InvalidModel("holds Python objects, which only a pickle can restore; save plain numbers")
    if not all(type(dim) is int and 0 <= dim < 2**62 for dim in shape):
        raise InvalidModel(f"shape {str(shape)[:80]} is not possible")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != size - start:
        raise InvalidModel(f"{dtype}{list(shape)} needs {wanted} bytes, found {size - start}")
    if dtype.kind in "SU":  # how long the texts are is known when they are read
        array = np.frombuffer(file.read(wanted), dtype).reshape(shape, order="F" if by_column else "C")
        return _Header(Tensor.from_array(array).type, start, dtype, by_column)
    if dtype.name not in _NATIVE:
        raise UnsupportedError(f"elements of type {dtype} have no place in a container of weights")
    return _Header(TensorType.of(dtype.name, shape, wanted), start, dtype, by_column)


def _load(archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: _Header) -> Data:
    with archive.open(member) as file:
        file.read(header.start)
        return _canonical(file.read(member.file_size - header.start), header).data


def _single(file: IO[bytes], path: Path) -> Weights:
    size = path.stat().st_size
    header = _header(file, size)
    file.seek(header.start)
    return Weights.of({path.stem: _canonical(file.read(size - header.start), header)})


def _canonical(data: bytes, header: _Header) -> Tensor:
    if header.dtype.isnative and header.dtype.kind not in "SU" and not header.by_column:
        return Tensor(header.type, data)
    order: Literal["F", "C"] = "F" if header.by_column else "C"
    array = np.frombuffer(data, header.dtype).reshape(header.type.shape, order=order)
    return Tensor.from_array(array)
