"""Where a Dataset comes from: an `.npz` file, or `package.module:function` that yields batches.

What the user has is fitted to the model once, here, and each adaptation is told; inside there is one form.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tightship.core.artifact import file_digest
from tightship.core.calling import import_function, is_function_name, module_file
from tightship.core.dataset import Batch, Dataset
from tightship.core.specs import TensorSpec
from tightship.errors import DatasetError, DatasetMismatch, nearest

__all__ = ["fit", "load"]

LABEL_NAMES = ("labels", "label", "y", "targets", "target")


def load(source: str) -> Dataset:
    """Open the data that `source` names. Raises `DatasetError` where it is absent, corrupt, pickled or empty."""
    if source.lower().endswith(".npz"):
        return _from_npz(Path(source))
    if is_function_name(source):
        return _from_function(source)
    raise DatasetError(f"{source}: expected an .npz file or package.module:function that yields batches")


def fit(dataset: Dataset, specs: Sequence[TensorSpec]) -> tuple[Dataset, tuple[str, ...]]:
    """Return the dataset with arrays named, typed and shaped as `specs` want, and what was adapted, in words.

    Adapted are: the name, where model and data have one input each; types that hold every value (uint8 to float32),
    float64 to float32 and integers that fit; axes of length one that are missing or extra.
    Raises `DatasetMismatch` for all else, naming what was expected and found.
    """
    first = next(dataset.open(), None)
    if first is None or not len(first):
        raise DatasetError(f"{dataset.name}: there are no items in it")
    names = _match_names(dataset.name, tuple(first.inputs), specs)
    notes = [f"array {found!r} feeds input {spec.name!r}" for spec, found in names if found != spec.name]
    for spec, found in names:
        notes += _differences(first.inputs[found], spec)
        _fit_array(dataset.name, first.inputs[found], spec)

    def fitted(batch: Batch) -> Batch:
        arrays = {spec.name: _fit_array(dataset.name, batch.inputs[found], spec) for spec, found in names}
        return Batch(arrays, batch.labels)

    return (dataset.mapped(fitted) if notes or len(names) < len(first.inputs) else dataset), tuple(notes)


def _from_npz(path: Path) -> Dataset:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    arrays = _read_npz(path)
    labels = next((arrays.pop(name) for name in LABEL_NAMES if name in arrays), None)
    return Dataset.from_arrays(str(path), file_digest(path), arrays, labels)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bombs(path, archive)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except DatasetError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DatasetError(f"{path}: holds pickled Python objects; save plain number arrays") from error
        raise DatasetError(f"{path}: not a readable .npz file: {error}") from error
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, MemoryError, OverflowError) as error:
        raise DatasetError(f"{path}: not a readable .npz file: {error}") from error
    except Exception as error:  # zlib and numpy's header parser raise types of their own
        raise DatasetError(f"{path}: not a readable .npz file: {error}") from error


def _refuse_bombs(path: Path, archive: zipfile.ZipFile) -> None:
    import psutil

    size = sum(entry.file_size for entry in archive.infolist())
    available = psutil.virtual_memory().available
    if size > available // 2:
        raise DatasetError(
            f"{path}: unpacks to {size / 1e9:.1f} GB and {available / 1e9:.1f} GB of memory are free; "
            "give a function that yields batches instead"
        )


def _from_function(source: str) -> Dataset:
    function = import_function(source, DatasetError)
    file = module_file(function)
    digest = hashlib.sha256(source.encode() + (file.read_bytes() if file else b"")).hexdigest()

    def opened() -> Iterator[Batch]:
        n_inputs: tuple[str, ...] | None = None
        for number, item in enumerate(_calls(source, function)):
            batch = _batch(source, number, item)
            if n_inputs is not None and tuple(batch.inputs) != n_inputs:
                raise DatasetMismatch(
                    f"{source}: batch {number} has inputs {list(batch.inputs)}, the first has {list(n_inputs)}"
                )
            n_inputs = tuple(batch.inputs)
            if len(batch):
                yield batch

    return Dataset(source, digest, opened)


def _calls(source: str, function: Callable[[], Any]) -> Iterator[Any]:
    try:
        yield from function()
    except DatasetError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise DatasetError(f"{source}: failed while yielding batches: {type(error).__name__}: {error}") from error


def _batch(source: str, number: int, item: Any) -> Batch:
    inputs, labels = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if not isinstance(inputs, Mapping):
        inputs = {"input": inputs}
    arrays = {str(name): np.asarray(value) for name, value in inputs.items()}
    labels = next((arrays.pop(name) for name in LABEL_NAMES if name in arrays), labels)
    labels = None if labels is None else np.asarray(labels)
    lengths = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if labels is not None:
        lengths["labels"] = labels.shape[0] if labels.ndim else None
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise DatasetMismatch(f"{source}: batch {number}: expected arrays of one length along axis 0, found {lengths}")
    if any(array.dtype == object for array in arrays.values()):
        raise DatasetMismatch(f"{source}: batch {number}: expected number arrays, found arrays of Python objects")
    return Batch(arrays, labels)


def _match_names(name: str, found: tuple[str, ...], specs: Sequence[TensorSpec]) -> tuple[tuple[TensorSpec, str], ...]:
    if len(specs) == 1 and len(found) == 1:
        return ((specs[0], found[0]),)
    for spec in specs:
        if spec.name not in found:
            raise DatasetMismatch(
                f"{name}: no array for input {spec.name!r}{nearest(spec.name, found)}; "
                f"expected {', '.join(map(str, specs))}, found {', '.join(found)}"
            )
    return tuple((spec, spec.name) for spec in specs)


def _differences(array: np.ndarray, spec: TensorSpec) -> list[str]:
    notes = []
    if str(array.dtype) != spec.dtype:
        notes.append(f"input {spec.name!r} is converted from {array.dtype} to {spec.dtype}")
    if spec.shape and not _fits(array.shape[1:], spec.shape[1:]):
        item = [dim if isinstance(dim, int) else "?" for dim in spec.shape[1:]]
        notes.append(f"items of input {spec.name!r} are reshaped from {list(array.shape[1:])} to {item}")
    return notes


def _fit_array(name: str, array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    return _cast(name, _reshape(name, array, spec), spec)


def _reshape(name: str, array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    wanted = spec.shape[1:]
    if not spec.shape or _fits(array.shape[1:], wanted):
        return array
    solid = [dim for dim in wanted if dim != 1]
    if all(isinstance(dim, int) for dim in wanted) and [dim for dim in array.shape[1:] if dim != 1] == solid:
        return array.reshape(len(array), *(int(dim) for dim in wanted))
    raise DatasetMismatch(
        f"{name}: items for input {spec.name!r}: expected shape {list(wanted)}, found {list(array.shape[1:])}"
    )


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return TensorSpec("", "", wanted).accepts(shape)


def _cast(name: str, array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if str(array.dtype) == spec.dtype or spec.dtype in ("unknown", "str"):
        return array
    wanted = _numpy_dtype(spec.dtype)
    both_float = array.dtype.kind == "f" and spec.dtype in ("float16", "float32", "bfloat16", "float64")
    if np.can_cast(array.dtype, wanted, "safe") or both_float or (array.dtype.kind in "iu" and wanted.kind == "f"):
        return array.astype(wanted)
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        cast = array.astype(wanted)
        if np.array_equal(cast, array):
            return cast
    raise DatasetMismatch(f"{name}: input {spec.name!r}: expected type {spec.dtype}, found {array.dtype}")


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        wanted: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return wanted
    return np.dtype(name)
