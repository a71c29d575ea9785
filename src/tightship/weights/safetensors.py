"""safetensors: eight bytes of length, a JSON header, the tensors. Written and read here, one tensor at a time.

Source: https://huggingface.co/docs/safetensors/index#format. What the format has no type for lies in it as U8, and the
note in its metadata says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from tightship.errors import InvalidModel, UnsupportedError
from tightship.weights.container import Container, Note, parse_json
from tightship.weights.tensors import MAX_TENSORS, Data, TensorType, Weights

__all__ = ["Safetensors"]

_CODES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
_CODE_OF = {dtype: code for code, dtype in _CODES.items() if code != "F4"}  # F4 has to fill whole bytes
_METADATA, _KEY = "__metadata__", "tightship"
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the format's own library."""

_ALIGNMENT = 8


@dataclass(frozen=True)
class Safetensors(Container):
    """Read and written without another library; readable by all that know the format."""

    name: ClassVar[str] = "safetensors"
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def read(self, path: Path, trusted: Sequence[str], stack: ExitStack) -> Weights:
        file = stack.enter_context(path.open("rb"))
        header, start = _header(file, path.stat().st_size)
        extents = _extents(header, path.stat().st_size - start)
        types, keys = _note(header).apply({key: kind for key, (kind, _) in extents.items()})
        return Weights(types, lambda name: _read(file, start + extents[keys[name]][1], types[name].n_bytes))

    def write(self, weights: Weights, path: Path) -> None:
        note, keys = Note.of(weights, _CODE_OF, lambda name: name != _METADATA and name.isprintable())
        header: dict[str, Any] = {_METADATA: {"format": "pt", **({_KEY: note.text()} if note else {})}}
        position = 0
        for name, kind in weights.types.items():
            as_it_is = kind.dtype in _CODE_OF
            header[keys[name]] = {
                "dtype": _CODE_OF[kind.dtype] if as_it_is else "U8",
                "shape": kind.shape if as_it_is else (kind.n_bytes,),
                "data_offsets": (position, position + kind.n_bytes),
            }
            position += kind.n_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        if len(text) > _MAX_HEADER_BYTES:
            raise UnsupportedError(f"{len(weights)} tensors need a header past the format's limit; choose another")
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in weights:
                file.write(weights[name].data)


def _header(file: IO[bytes], size: int) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise InvalidModel(f"not a safetensors file, or cut short: a header of {length} bytes in {size}")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise InvalidModel("not a safetensors file: its header does not begin with {")
    header = parse_json(text.decode())
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise InvalidModel(f"its header is no table of at most {MAX_TENSORS} tensors")
    return header, 8 + length


def _extents(header: Mapping[str, Any], size: int) -> dict[str, tuple[TensorType, int]]:
    """Type and offset of each tensor. Raises `InvalidModel` where they overlap, leave holes or end elsewhere."""
    found = {key: _extent(key, entry) for key, entry in header.items() if key != _METADATA}
    position = 0
    for key, (kind, start) in sorted(found.items(), key=lambda item: (item[1][1], item[1][0].n_bytes)):
        if start != position:
            raise InvalidModel(f"tensor {key[:80]!r} begins at {start}, where {position} is next: a hole or an overlap")
        position += kind.n_bytes
    if position != size:
        raise InvalidModel(f"its tensors end at byte {position} of {size}; it is cut short or has more at its end")
    return found


def _extent(key: str, entry: Any) -> tuple[TensorType, int]:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if len(entry) != 3 or type(start) is not int or type(end) is not int or not 0 <= start <= end:
            raise ValueError(f"offsets {str(entry)[:80]}")
        return TensorType.of(_CODES[dtype], shape, end - start), start
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidModel(f"tensor {key[:80]!r} has no sound entry in the header: {str(entry)[:120]}") from error
    except InvalidModel as error:
        raise InvalidModel(f"tensor {key[:80]!r}: {error}") from error


def _note(header: Mapping[str, Any]) -> Note:
    metadata = header.get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidModel("its metadata are no texts by name")
    return Note.parse(metadata[_KEY]) if _KEY in metadata else Note({})


def _read(file: IO[bytes], start: int, n_bytes: int) -> Data:
    file.seek(start)
    data = file.read(n_bytes)
    if len(data) < n_bytes:
        raise InvalidModel("the file ends before the tensor does")
    return data
