"""The header of a safetensors file: which tensor of which type and shape lies where.

Source: https://huggingface.co/docs/safetensors/index#format. Eight bytes of length, a JSON header, the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from tightship.core.sound_json import parse_json
from tightship.errors import InvalidModel

__all__ = ["ALIGNMENT", "CODES", "MAX_HEADER_BYTES", "METADATA", "Extent", "Header", "read_header"]

METADATA = "__metadata__"
"""Key of the texts that a file holds beside its tensors."""

MAX_HEADER_BYTES = 100_000_000
"""The limit of the format's own library."""

ALIGNMENT = 8

CODES = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F4": ("float4_e2m1fn", 4),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
    "C64": ("complex64", 64),
}
"""Name (as NumPy and ml_dtypes have it) and bits of each element type, by the format's own code."""

_MAX_TENSORS = 1_000_000
_MAX_AXES = 64
_MAX_BYTES = 2**62


@dataclass(frozen=True)
class Extent:
    """One tensor: element type, shape, and where its bytes begin in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name, in the header's order, and the texts beside them."""

    tensors: Mapping[str, Extent]
    metadata: Mapping[str, str]


def read_header(file: IO[bytes], size: int) -> Header:
    """Read and check the header of a file of `size` bytes; no tensor is read.

    Raises `InvalidModel` where a tensor's bytes are not those of its type and shape, or where tensors overlap, leave
    holes or end elsewhere than the file does.
    """
    table, start = _parse(file, size)
    metadata = table.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidModel("its metadata are no texts by name")
    tensors = {name: _extent(name, entry, start) for name, entry in table.items()}
    _check_places(tensors, start, size)
    return Header(tensors, metadata)


def _parse(file: IO[bytes], size: int) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise InvalidModel(f"not a safetensors file, or cut short: a header of {length} bytes in {size}")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise InvalidModel("not a safetensors file: its header does not begin with {")
    try:
        header = parse_json(text.decode())
    except UnicodeDecodeError as error:
        raise InvalidModel("not a safetensors file: its header is no text") from error
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise InvalidModel(f"its header is no table of at most {_MAX_TENSORS} tensors")
    return header, 8 + length


def _extent(name: str, entry: Any, data_start: int) -> Extent:
    try:
        (dtype, n_bits), shape, (start, end) = CODES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if len(entry) != 3 or type(start) is not int or type(end) is not int or not 0 <= start <= end:
            raise ValueError(f"offsets {str(entry)[:80]}")
        if len(shape) > _MAX_AXES or not all(type(dim) is int and 0 <= dim <= _MAX_BYTES for dim in shape):
            raise InvalidModel(f"tensor {name[:80]!r}: shape {str(shape)[:80]} is not possible")
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidModel(f"tensor {name[:80]!r} has no sound entry in the header: {str(entry)[:120]}") from error
    wanted = -(-math.prod(shape) * n_bits // 8)
    if end - start != wanted:
        raise InvalidModel(f"tensor {name[:80]!r}: {dtype}{list(shape)} needs {wanted} bytes, found {end - start}")
    return Extent(dtype, tuple(shape), data_start + start, wanted)


def _check_places(tensors: Mapping[str, Extent], start: int, size: int) -> None:
    position = start
    for name, extent in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].n_bytes)):
        if extent.start != position:
            found, wanted = extent.start - start, position - start
            raise InvalidModel(f"tensor {name[:80]!r} begins at {found}, where {wanted} is next: a hole or an overlap")
        position += extent.n_bytes
    if position != size:
        raise InvalidModel(
            f"its tensors end at byte {position - start} of {size - start}; it is cut short or has more at its end"
        )
