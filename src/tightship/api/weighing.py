"""`weights`: the tensors of a model or container in another container, read back and compared bit by bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tightship.api import loading
from tightship.core import atomic
from tightship.core.model import Model
from tightship.core.progress import SILENT, Progress
from tightship.errors import InvalidModel, OutputError, UnsupportedError, UsageError
from tightship.formats.onnx_tensors import constant_tensors
from tightship.weights import (
    CONTAINERS,
    Container,
    Tally,
    Tensor,
    TensorType,
    Weights,
    container_of,
    digest,
    is_container,
)
from tightship.weights.dtypes import DTYPES
from tightship.weights.tensors import Data, join_strings
from tightship.weights.torch import from_torch, is_program

__all__ = ["Weighed", "weights"]


@dataclass(frozen=True)
class Weighed:
    """What was written. `n_bytes` are those of the tensors, `file_bytes` of the file; `digest` is the same in every
    container; `left_out` names what the source holds that is no tensor.
    """

    source: str
    output: str
    container: str
    n_tensors: int
    n_bytes: int
    file_bytes: int
    digest: str
    left_out: tuple[str, ...]
    seconds: float


def weights(
    source: str | Path,
    output: str | Path,
    to: str | None = None,
    trusted: Sequence[str] = (),
    compression: str | None = None,
    progress: Progress = SILENT,
) -> Weighed:
    """Write the tensors of `source`, a container or any readable model, to `output`, in the container `to` or that of
    its suffix; read them back and compare every bit.

    `trusted` are names that a pickle may mention; `compression` is for containers that have it (HDF5: gzip, lzf, blosc;
    NumPy: gzip). Raises `InvalidModel` on damaged or hostile sources, `UnsupportedError` on names or types that the
    container cannot hold, and `OutputError` where what was written reads back differently; nothing is left then.
    """
    started, place = time.perf_counter(), Path(output)
    container = _chosen(CONTAINERS[to] if to else container_of(place), compression)
    if place.exists() and Path(source).exists() and place.samefile(source):
        raise UsageError(f"the output {place} would replace the source; choose another place")
    atomic.check_writable(place, None)
    with _opened(str(source), trusted, progress) as found, atomic.writing(place) as temporary:
        if not found:
            raise InvalidModel(f"{source}: holds no tensors")
        tally = Tally(found.types)
        with progress.step(f"writing {container.name}", found.n_bytes) as advance:
            container.write(tally.watching(_counted(found, advance)), temporary)
        with progress.step("reading it back", found.n_bytes) as advance, container.reopen(temporary) as written:
            differing = tally.differing(digest(_counted(written, advance)))
        if differing:
            names = ", ".join(differing[:5])
            raise OutputError(f"{place}: not written, since {len(differing)} tensors read back differently: {names}")
        size = temporary.stat().st_size
    seconds = round(time.perf_counter() - started, 3)
    return Weighed(
        str(source),
        str(place),
        container.name,
        len(found),
        found.n_bytes,
        size,
        tally.hexdigest(),
        found.left_out,
        seconds,
    )


def _chosen(container: Container, compression: str | None) -> Container:
    if compression is None:
        return container
    known = {field.name: field.type for field in fields(container)}
    if "compression" not in known:
        raise UsageError(f"{container.name} is not compressed; HDF5 and NumPy are")
    if container.name == "numpy" and compression not in ("none", "gzip"):
        raise UsageError(f"NumPy archives are packed by gzip or not at all, not by {compression}")
    return replace(container, compression=compression)  # type: ignore[call-arg]


@contextmanager
def _opened(source: str, trusted: Sequence[str], progress: Progress) -> Iterator[Weights]:
    path = Path(source)
    if is_container(source) and not is_program(path):
        with container_of(source).open(path, trusted) as found:
            yield found
        return
    with progress.step("reading the model"):
        model = loading.read(source, trusted=trusted).model
    yield _FROM[model.form](model)


def _counted(weights: Weights, advance: Callable[[int], None]) -> Weights:
    def load(name: str) -> Data:
        data = weights.load(name)
        advance(len(data))
        return data

    return replace(weights, load=load)


def _from_graph(model: Model) -> Weights:
    """Initializers and constants of the graph and of those inside it; of two with one name the second is numbered."""
    found = _distinct((value.name or "constant", tensor) for value, tensor in constant_tensors(model.graph))
    types = {name: _graph_type(tensor) for name, tensor in found.items()}
    return Weights(types, lambda name: _graph_data(found[name]))


def _graph_type(tensor: Any) -> TensorType:
    shape = tuple(int(dim) for dim in tensor.shape)
    if tensor.dtype.name == "STRING":
        return join_strings(_graph_strings(tensor), shape).type
    return TensorType.of(_name_of(tensor), shape)


def _name_of(tensor: Any) -> str:
    name = "string" if tensor.dtype.name == "STRING" else str(tensor.dtype.numpy())
    if name not in DTYPES:
        raise UnsupportedError(f"tensor {tensor.name!r} of {tensor.dtype.name} has no place in a container of weights")
    return name


def _graph_strings(tensor: Any) -> list[object]:
    return [bytes(text) for text in tensor.string_data()]


def _graph_data(tensor: Any) -> Data:
    if tensor.dtype.name == "STRING":
        return join_strings(_graph_strings(tensor), tuple(int(dim) for dim in tensor.shape)).data
    data: bytes = tensor.tobytes()
    return data


def _from_module(model: Model) -> Weights:
    state = model.content.module.state_dict()
    types = {name: from_torch(tensor[:0] if tensor.dim() else tensor).type for name, tensor in state.items()}
    types = {name: TensorType.of(kind.dtype, tuple(state[name].shape)) for name, kind in types.items()}
    return Weights(types, lambda name: from_torch(state[name]).data)


def _from_keras(model: Model) -> Weights:
    """Weights by the path that Keras gives them (`dense/kernel`)."""
    import numpy as np

    found = _distinct((weight.path, weight) for weight in model.content.variables)
    types = {name: TensorType.of(str(weight.dtype), tuple(weight.shape)) for name, weight in found.items()}
    return Weights(types, lambda name: Tensor.from_array(np.asarray(found[name])).data)


def _distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        key, number = name, 1
        while key in found:
            number += 1
            key = f"{name}_{number}"
        found[key] = value
    return found


_FROM: dict[str, Callable[[Model], Weights]] = {
    "graph": _from_graph,
    "module": _from_module,
    "keras": _from_keras,
}
