"""Which parts of a pickle are tensors, under which names, and where their bytes are.

Names are the keys on the way, joined by dots. NumPy's and PyTorch's own words for arrays are known; any other name that
a pickle mentions is refused, with all of them in one message, unless the user trusts it. Even then nothing is called:
an object of a trusted class is looked through for tensors, as a dict is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError
from tightship.weights.container import NOTE, Note
from tightship.weights.dtypes import DTYPES
from tightship.weights.pickle_machine import Call, Global, Pairs, Persistent, Span
from tightship.weights.tensors import MAX_TENSORS, Data, Tensor, TensorType, Weights

__all__ = ["STORAGES", "Storages", "refuse_strangers", "weights_of"]

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_UNTYPED = "torch.storage.UntypedStorage"
_REBUILD, _REBUILD_TYPED = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_BUILTINS = ("set", "frozenset", "dict", "bytearray", "bytes")
_KNOWN = frozenset(
    {
        "numpy.ndarray",
        "numpy.dtype",
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
        *(f"ml_dtypes.{name}" for name in DTYPES),
        *(
            f"{home}.{name}"
            for home in ("builtins", "__builtin__")
            for name in ("set", "frozenset", "dict", "bytearray", "bytes")
        ),
        "collections.OrderedDict",
        "_codecs.encode",
        "torch.Size",
        _REBUILD,
        _REBUILD_TYPED,
        *_PARAMETERS,
        _UNTYPED,
        *(f"torch.{name}" for name in STORAGES),
        *(f"torch.{name}" for name in DTYPES),
    }
)
_MODULE_PARTS = frozenset({"_parameters", "_buffers", "_modules"})
"""Where a module of torch keeps what its state dict names without them."""

_CODE = re.compile(r"[biufcSU][0-9]{1,9}")
_MAX_DEPTH = 64
_MAX_EXPANSION, _EXPANSION_FLOOR_BYTES = 100, 2**28
_LISTED = 20


class Storages(Protocol):
    """Where bytes outside of the pickle lie."""

    def read(self, span: Span) -> bytes:
        """Bytes of the pickle's own file."""
        ...

    def size(self, key: str) -> int:
        """Bytes of a storage of torch. Raises `InvalidModel` where there is none."""
        ...

    def storage(self, key: str) -> bytes:
        """All of a storage."""
        ...


@dataclass(frozen=True)
class _Leaf:
    type: TensorType
    load: Callable[[], Data]


def refuse_strangers(names: Sequence[str], trusted: Sequence[str]) -> None:
    """Raise `UnsupportedError` with every name a pickle wants that is neither of arrays and containers nor trusted."""
    strangers = [name for name in names if name not in _KNOWN and name not in trusted]
    if strangers:
        listed = ", ".join(name[:100] for name in strangers[:_LISTED])
        listed += f" and {len(strangers) - _LISTED} more" if len(strangers) > _LISTED else ""
        flags = " ".join(f"--trust-pickle {name[:100]}" for name in strangers[:_LISTED])
        raise UnsupportedError(
            f"a pickle that wants more than arrays and containers: {listed}; nothing was run. Save the tensors alone, "
            f"or have the objects looked through as data with {flags}"
        )


def weights_of(root: Any, storages: Storages, file_size: int) -> Weights:
    """The tensors in what a pickle leaves. Raises `InvalidModel` where one is damaged or they are out of proportion."""
    leaves: dict[str, _Leaf] = {}
    left_out, note = [], Note({})
    for name, value in _flat(root):
        if name == NOTE and isinstance(value, str):
            note = Note.parse(value)
            continue
        leaf = _leaf(name, value, storages)
        if leaf is None:
            left_out.append(name)
        elif name in leaves:
            raise InvalidModel(f"two tensors are called {name[:80]!r}")
        else:
            leaves[name] = leaf
    n_bytes = sum(leaf.type.n_bytes for leaf in leaves.values())
    if n_bytes > max(_EXPANSION_FLOOR_BYTES, _MAX_EXPANSION * file_size):
        raise InvalidModel(f"{file_size} bytes that unpack to {n_bytes}: not opened")
    types, keys = note.apply({name: leaf.type for name, leaf in leaves.items()})
    return Weights(types, lambda name: leaves[keys[name]].load(), tuple(left_out))


def _flat(root: Any) -> Iterator[tuple[str, Any]]:
    """Every part that is no container, with its name."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), root)]
    visited = 0
    while pending:
        path, value = pending.pop()
        visited += 1
        if visited > MAX_TENSORS or len(path) > _MAX_DEPTH:
            raise InvalidModel(f"nested deeper than {_MAX_DEPTH}, or more than {MAX_TENSORS} parts")
        children = _children(value)
        if children is None:
            yield ".".join(path) if path else "tensor", value
        else:
            pending.extend(((*path, *_step(key)), child) for key, child in reversed(children))


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(value, Pairs):
        return value.items
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, Call) and isinstance(value.function, Global) and value.function.name not in _KNOWN:
        state = value.state if isinstance(value.state, tuple) else (value.state,)
        parts = [part.items for part in state if isinstance(part, Pairs)]
        return [*(item for part in parts for item in part), *value.items, *(_children(value.arguments) or [])]
    return None


def _step(key: Any) -> tuple[str, ...]:
    if isinstance(key, str) and key in _MODULE_PARTS:
        return ()
    if isinstance(key, str | int):
        return (str(key),)
    raise InvalidModel(f"a dict whose key is a {type(key).__name__}; expected names")


def _leaf(name: str, value: Any, storages: Storages) -> _Leaf | None:
    try:
        return _leaf_of(value, storages)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise InvalidModel(f"tensor {name[:200]!r} is not described as NumPy or PyTorch does") from error
    except (InvalidModel, UnsupportedError) as error:
        raise type(error)(f"tensor {name[:200]!r}: {error}") from error


def _leaf_of(value: Any, storages: Storages) -> _Leaf | None:
    if not isinstance(value, Call) or not isinstance(value.function, Global):
        return None
    function, arguments = value.function.name, value.arguments
    if function.endswith("multiarray._reconstruct"):
        _, shape, dtype, by_column, data = value.state
        return _array(shape, _dtype(dtype), by_column is True, data, storages)
    if function.endswith("numeric._frombuffer"):
        data, dtype, shape, order = arguments
        return _array(shape, _dtype(dtype), order == "F", data, storages)
    if function.endswith("multiarray.scalar"):
        dtype, data = arguments
        return _array((), _dtype(dtype), False, data, storages)
    if function in _PARAMETERS:
        return _leaf_of(arguments[0], storages)
    if function in (_REBUILD, _REBUILD_TYPED):
        return _torch_tensor(function, arguments, storages)
    return None


def _dtype(call: Any) -> np.dtype[Any]:
    if not isinstance(call, Call) or not isinstance(call.function, Global) or call.function.name != "numpy.dtype":
        raise TypeError
    code = call.arguments[0]
    if isinstance(code, Global) and code.name.startswith("ml_dtypes."):
        return DTYPES[code.name.removeprefix("ml_dtypes.")].numpy
    if isinstance(code, str) and code in DTYPES:
        return DTYPES[code].numpy
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        kind = "Python objects" if code in ("O", "O8") else f"elements of type {str(code)[:40]}"
        raise UnsupportedError(f"{kind} have no place in a container of weights")
    order = call.state[1] if isinstance(call.state, tuple) else "<"
    return np.dtype(code).newbyteorder(">" if order == ">" else "<")


def _array(shape: Any, dtype: np.dtype[Any], by_column: bool, data: Any, storages: Storages) -> _Leaf:
    n_bytes = data.length if isinstance(data, Span) else len(data)
    if not isinstance(data, Span | bytes) or not all(type(dim) is int and dim >= 0 for dim in shape):
        raise TypeError
    if math.prod(shape) * dtype.itemsize != n_bytes:
        raise InvalidModel(f"{dtype}{list(shape)} needs {math.prod(shape) * dtype.itemsize} bytes, found {n_bytes}")

    def tensor() -> Tensor:
        raw = storages.read(data) if isinstance(data, Span) else data
        array = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
        return Tensor.from_array(array.reshape(shape, order="F" if by_column else "C"))

    if dtype.kind in "SU" or dtype.name not in DTYPES or DTYPES[dtype.name].bits < 8:
        return _Leaf(tensor().type, lambda: tensor().data)
    return _Leaf(TensorType.of(dtype.name, shape, n_bytes), lambda: tensor().data)


def _torch_tensor(function: str, arguments: Any, storages: Storages) -> _Leaf:
    storage, offset, shape, strides = arguments[:4]
    word, kind, key = storage.key[:3] if isinstance(storage, Persistent) else ("", None, None)
    if word != "storage" or not isinstance(kind, Global) or not isinstance(key, str):
        raise TypeError
    named = arguments[6].name if function == _REBUILD_TYPED else kind.name
    dtype = named.removeprefix("torch.")
    dtype = STORAGES.get(dtype, dtype)
    if dtype not in DTYPES or DTYPES[dtype].bits < 8:
        raise UnsupportedError(f"elements of type {named} have no place in a container of weights")
    shape = tuple(shape.arguments[0]) if isinstance(shape, Call) else tuple(shape)
    strides = tuple(strides)
    found = TensorType.of(dtype, shape)
    item = DTYPES[dtype].bits // 8
    _check_extent(shape, strides, offset, storages.size(key) // item)
    return _Leaf(found, lambda: _strided(storages.storage(key), found, strides, offset, item))


def _check_extent(shape: tuple[int, ...], strides: tuple[Any, ...], offset: Any, n_stored: int) -> None:
    """Raise `InvalidModel` where a tensor reaches beyond its storage of `n_stored` elements."""
    if len(strides) != len(shape) or not all(type(number) is int and number >= 0 for number in (offset, *strides)):
        raise TypeError
    if math.prod(shape):
        last = offset + sum((dim - 1) * stride for dim, stride in zip(shape, strides, strict=True))
        if last >= n_stored:
            raise InvalidModel(f"reaches to element {last} of a storage of {n_stored}; the file is cut short")


def _strided(storage: bytes, kind: TensorType, strides: tuple[int, ...], offset: int, item: int) -> Data:
    if not kind.n_elements:
        return b""
    if strides == _contiguous(kind.shape):
        return memoryview(storage)[offset * item : offset * item + kind.n_bytes]
    flat = np.frombuffer(storage, f"V{item}", len(storage) // item)[offset:]
    steps = tuple(stride * item for stride in strides)
    view = np.lib.stride_tricks.as_strided(flat, kind.shape, steps, writeable=False)
    return view.tobytes()


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for dim in reversed(shape[1:]):
        strides.insert(0, strides[0] * dim)
    return tuple(strides) if shape else ()
