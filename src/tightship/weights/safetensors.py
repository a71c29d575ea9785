"""safetensors: eight bytes of length, a JSON header, the tensors. Written and read here, one tensor at a time.

Source: https://huggingface.co/docs/safetensors/index#format. What the format has no type for lies in it as U8, and the
note in its metadata says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from tightship.core.safetensors_header import ALIGNMENT, CODES, MAX_HEADER_BYTES, METADATA, Extent, Header, read_header
from tightship.errors import InvalidModel, UnsupportedError
from tightship.weights.container import Container, Note
from tightship.weights.tensors import Data, TensorType, Weights

__all__ = ["Safetensors"]

_CODE_OF = {dtype: code for code, (dtype, _) in CODES.items() if code != "F4"}  # F4 has to fill whole bytes
_KEY = "tightship"


@dataclass(frozen=True)
class Safetensors(Container):
    """Read and written without another library; readable by all that know the format."""

    name: ClassVar[str] = "safetensors"
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def read(self, path: Path, trusted: Sequence[str], stack: ExitStack) -> Weights:
        file = stack.enter_context(path.open("rb"))
        header = read_header(file, path.stat().st_size)
        found = {key: TensorType.of(it.dtype, it.shape, it.n_bytes) for key, it in header.tensors.items()}
        types, keys = _note(header).apply(found)
        return Weights(types, lambda name: _read(file, header.tensors[keys[name]]))

    def write(self, weights: Weights, path: Path) -> None:
        note, keys = Note.of(weights, _CODE_OF, lambda name: name != METADATA and name.isprintable())
        header: dict[str, Any] = {METADATA: {"format": "pt", **({_KEY: note.text()} if note else {})}}
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
        text += b" " * (-len(text) % ALIGNMENT)
        if len(text) > MAX_HEADER_BYTES:
            raise UnsupportedError(f"{len(weights)} tensors need a header past the format's limit; choose another")
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in weights:
                file.write(weights[name].data)


def _note(header: Header) -> Note:
    return Note.parse(header.metadata[_KEY]) if _KEY in header.metadata else Note({})


def _read(file: IO[bytes], extent: Extent) -> Data:
    file.seek(extent.start)
    data = file.read(extent.n_bytes)
    if len(data) < extent.n_bytes:
        raise InvalidModel("the file ends before the tensor does")
    return data
