"""Pickles of NumPy arrays by name. Reading follows `pickle_machine`: nothing in the file is imported or called."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from tightship.errors import InvalidModel
from tightship.weights import pickle_words as words
from tightship.weights.container import NOTE, Container, Note
from tightship.weights.dtypes import DTYPES
from tightship.weights.pickle_machine import Span, run
from tightship.weights.pickle_tensors import refuse_strangers, weights_of
from tightship.weights.tensors import Tensor, Weights

__all__ = ["Pickle"]

_NATIVE = frozenset(name for name, dtype in DTYPES.items() if dtype.native)


@dataclass(frozen=True)
class Pickle(Container):
    """Written so that `pickle.load` gives a dict of NumPy arrays."""

    name: ClassVar[str] = "pickle"
    suffixes: ClassVar[tuple[str, ...]] = (".pkl", ".pickle")

    def read(self, path: Path, trusted: Sequence[str], stack: ExitStack) -> Weights:
        file, size = stack.enter_context(path.open("rb")), path.stat().st_size
        root, names = run(file, size)
        refuse_strangers(names, trusted)
        return weights_of(root, _File(file), size)

    def write(self, weights: Weights, path: Path) -> None:
        note, keys = Note.of(weights, _NATIVE, lambda name: name != NOTE)
        with path.open("wb") as file:
            file.write(words.PROTOCOL_4 + words.EMPTY_DICT + words.MARK)
            for name in weights:
                file.write(words.text(keys[name]))
                _write_array(weights[name], file)
            if note:
                file.write(words.text(NOTE) + words.text(note.text()))
            file.write(words.SETITEMS + words.STOP)


@dataclass(frozen=True)
class _File:
    """Bytes of the pickle itself; storages of torch are in its own files only."""

    file: IO[bytes]

    def read(self, span: Span) -> bytes:
        self.file.seek(span.start)
        return self.file.read(span.length)

    def size(self, key: str) -> int:
        raise InvalidModel("a storage of torch outside of the file")

    def storage(self, key: str) -> bytes:
        raise InvalidModel("a storage of torch outside of the file")


def _write_array(tensor: Tensor, file: IO[bytes]) -> None:
    """What `numpy.ndarray.__reduce__` says: an empty array, and the state that fills it."""
    kind = tensor.type
    as_it_is = kind.dtype in _NATIVE
    dtype = DTYPES[kind.dtype if as_it_is else "uint8"].numpy
    shape = kind.shape if as_it_is else (kind.n_bytes,)
    file.write(words.name("numpy._core.multiarray", "_reconstruct") + words.MARK + words.name("numpy", "ndarray"))
    file.write(words.tuple_of((0,)) + words.bytes_head(1) + b"b" + words.TUPLE + words.REDUCE)
    file.write(words.MARK + words.integer(1) + words.tuple_of(shape))
    file.write(words.name("numpy", "dtype") + words.MARK + words.text(dtype.str.lstrip("<>|")) + words.TUPLE)
    file.write(words.REDUCE + words.FALSE + words.bytes_head(len(tensor.data)))
    file.write(tensor.data)
    file.write(words.TUPLE + words.BUILD)
