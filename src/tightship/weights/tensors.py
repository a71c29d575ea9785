"""Tensors by name, loaded one at a time: what every container reads into and is written from.

A tensor's bytes have one layout whatever it came from: row-major and as `dtypes` says. Strings are n + 1 offsets
(uint64) and the bytes that they cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError
from tightship.weights.dtypes import DTYPES, STRING

__all__ = ["MAX_TENSORS", "Data", "Tensor", "TensorType", "Weights", "join_strings", "pack"]

Data: TypeAlias = bytes | bytearray | memoryview

MAX_TENSORS = 1_000_000
_MAX_AXES = 64
_MAX_BYTES = 2**62


@dataclass(frozen=True)
class TensorType:
    """Element type, shape and bytes of a tensor. Raises `InvalidModel` where they do not belong together."""

    dtype: str
    shape: tuple[int, ...]
    n_bytes: int

    @classmethod
    def of(cls, dtype: str, shape: Sequence[object], n_bytes: int | None = None) -> TensorType:
        """The type of a tensor from untrusted values; `n_bytes` where its data is there already."""
        if dtype not in DTYPES:
            raise InvalidModel(f"element type {dtype[:40]!r} is none of {', '.join(DTYPES)}")
        if len(shape) > _MAX_AXES or not all(type(dim) is int and 0 <= dim <= _MAX_BYTES for dim in shape):
            raise InvalidModel(f"shape {str(shape)[:80]} is not possible")
        dims = tuple(dim for dim in shape if isinstance(dim, int))
        n_elements = math.prod(dims)
        if n_elements > _MAX_BYTES:
            raise InvalidModel(f"shape {str(shape)[:80]} is not possible")
        wanted = -(-n_elements * DTYPES[dtype].bits // 8)
        if n_bytes is not None and (n_bytes < 8 * (n_elements + 1) if dtype == STRING else n_bytes != wanted):
            raise InvalidModel(f"{dtype}{list(dims)} needs {wanted or 'more'} bytes, found {n_bytes}")
        return cls(dtype, dims, wanted if n_bytes is None else n_bytes)

    @property
    def n_elements(self) -> int:
        """Product of the dimensions."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Tensor:
    """A loaded tensor. Raises `InvalidModel` where the bytes are none of its type."""

    type: TensorType
    data: Data

    def __post_init__(self) -> None:
        TensorType.of(self.type.dtype, self.type.shape, len(self.data))
        if self.type.dtype == "bool" and self.data and int(np.frombuffer(self.data, np.uint8).max()) > 1:
            raise InvalidModel("a bool is neither 0 nor 1")
        if self.type.dtype == STRING:
            self._offsets()

    def array(self) -> np.ndarray:
        """The elements as an array of `DTYPES[dtype].numpy`; strings as an array of bytes objects.

        The array shares the bytes, except for packed types, whose elements take one byte each in memory.
        """
        dtype, shape = self.type.dtype, self.type.shape
        if dtype == STRING:
            return np.array([*self.strings(), None], dtype=object)[:-1].reshape(shape)
        bits, kind = DTYPES[dtype].bits, DTYPES[dtype].numpy
        if bits >= 8:
            return np.frombuffer(self.data, kind).reshape(shape)
        return _unpack(self.data, bits, self.type.n_elements, signed=dtype.startswith("int")).view(kind).reshape(shape)

    def strings(self) -> list[bytes]:
        """The elements of a tensor of strings, in order."""
        offsets = self._offsets()
        body = memoryview(self.data)[8 * len(offsets) :]
        return [bytes(body[start:end]) for start, end in pairwise(offsets)]

    def _offsets(self) -> list[int]:
        count = self.type.n_elements + 1
        offsets = np.frombuffer(self.data, "<u8", count)
        if offsets[0] or offsets[-1] != len(self.data) - 8 * count or (offsets[1:] < offsets[:-1]).any():
            raise InvalidModel("the offsets of its strings do not lead through them")
        found: list[int] = offsets.tolist()
        return found

    @classmethod
    def from_array(cls, array: np.ndarray) -> Tensor:
        """The tensor of an array of any type in `DTYPES`, or of text. Raises `UnsupportedError` for any other."""
        if array.dtype.kind in "SU" or array.dtype == object:
            return join_strings(array.reshape(-1).tolist(), array.shape)
        name = array.dtype.name
        if name not in DTYPES:
            raise UnsupportedError(f"elements of type {array.dtype} have no place in a container of weights")
        flat = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(-1)
        raw = flat.view(np.uint8)
        bits = DTYPES[name].bits
        return cls(TensorType.of(name, array.shape), _view(raw if bits >= 8 else pack(raw, bits)))


@dataclass(frozen=True)
class Weights:
    """Tensors by name, in the order of their source. `load` fetches one; `left_out` names what was no tensor.

    `where` begins the messages of errors.
    """

    types: Mapping[str, TensorType]
    load: Callable[[str], Data]
    left_out: tuple[str, ...] = ()
    where: str = ""

    def __getitem__(self, name: str) -> Tensor:
        try:
            return Tensor(self.types[name], self.load(name))
        except InvalidModel as error:
            raise InvalidModel(f"{self.where}tensor {name[:200]!r}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.types)

    def __len__(self) -> int:
        return len(self.types)

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(kind.n_bytes for kind in self.types.values())

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Weights:
        """Weights that are in memory already."""
        return cls({name: tensor.type for name, tensor in tensors.items()}, lambda name: tensors[name].data)


def join_strings(values: Sequence[object], shape: Sequence[int]) -> Tensor:
    """The tensor of strings: text becomes UTF-8, bytes stay. Raises `UnsupportedError` for anything else."""
    parts = [value.encode() if isinstance(value, str) else value for value in values]
    if not all(isinstance(part, bytes) for part in parts):
        raise UnsupportedError("elements that are Python objects have no place in a container of weights")
    texts = [part for part in parts if isinstance(part, bytes)]
    offsets = np.cumsum([0, *map(len, texts)], dtype="<u8")
    data = offsets.tobytes() + b"".join(texts)
    return Tensor(TensorType.of(STRING, tuple(shape), len(data)), data)


def _view(raw: np.ndarray) -> Data:
    return memoryview(raw.data) if raw.size else b""


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Bytes that hold one element each, put together: `bits` of each, the first in the lowest."""
    per_byte = 8 // bits
    padded = np.zeros(-(-values.size // per_byte) * per_byte, np.uint8)
    padded[: values.size] = values & (2**bits - 1)
    columns = padded.reshape(-1, per_byte)
    packed = np.zeros(len(columns), np.uint8)
    for index in range(per_byte):
        packed |= columns[:, index] << (bits * index)
    return packed


def _unpack(data: Data, bits: int, n_elements: int, signed: bool) -> np.ndarray:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = ((np.frombuffer(data, np.uint8)[:, None] >> shifts) & np.uint8(2**bits - 1)).reshape(-1)[:n_elements]
    if signed:  # two's complement, widened to the byte that ml_dtypes keeps it in
        values = ((values ^ np.uint8(2 ** (bits - 1))) - np.uint8(2 ** (bits - 1))).astype(np.uint8)
    return values
