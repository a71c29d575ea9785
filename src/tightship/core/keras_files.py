"""Files of Keras: judged before Keras sees them, old ones put in today's words, and read as data."""

from __future__ import annotations

import copy
import importlib
import json
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightship.core.hdf5 import check_hdf5
from tightship.core.keras_config import LAMBDA, check_config, parse_config
from tightship.core.keras_first import convolves, renamed, reordered
from tightship.core.keras_hard_sigmoid import hard_sigmoids_written_out, steepen
from tightship.core.keras_legacy import modernized
from tightship.core.keras_model import from_keras
from tightship.core.model import Model, Step
from tightship.core.tensorflow_runtime import quiet_tensorflow, require_keras
from tightship.errors import InvalidModel, UnsupportedError

if TYPE_CHECKING:
    import keras

__all__ = ["H5_SUFFIXES", "KERAS_SUFFIXES", "read_h5", "read_keras", "read_weights", "write_keras"]

KERAS_SUFFIXES = (".keras",)
H5_SUFFIXES = (".h5", ".hdf5")

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = re.compile(r"config\.json|metadata\.json|model\.weights\.h5|assets/([\w.-]+/)*[\w.-]*", re.ASCII)
_MAX_CONFIG_BYTES = 2**26
_MAX_EXPANSION = 100
_EXPANSION_FLOOR_BYTES = 2**28


def read_keras(path: Path, trusted: Sequence[str] = ()) -> Model:
    """Read a `.keras` file of Keras 3; `trusted` as in `check_config`.

    Raises `InvalidModel` where it is damaged or hostile and `UnsupportedError` where it holds code or classes that are
    not Keras' own.
    """
    require_keras("reading a .keras file")
    text = _check_archive(path)
    check_config(path, {**parse_config(path, text), "compile_config": None}, trusted)
    check_hdf5(path, _WEIGHTS)
    with tempfile.TemporaryDirectory(prefix="tightship-") as folder:
        named = Path(folder, "model.keras")  # Keras goes by the suffix, in lower case only
        named.symlink_to(path.resolve())
        return _wrapped(path, _load(path, named, trusted))


def read_h5(path: Path, trusted: Sequence[str] = ()) -> Model:
    """Read a whole model in an HDF5 file of Keras 2 or 3. Raises as `read_keras`."""
    require_keras("reading a Keras HDF5 file")
    facts = check_hdf5(path)
    if not facts["model_config"]:
        raise InvalidModel(_no_network(path, facts))
    config = parse_config(path, facts["model_config"])
    version = _major(facts["keras_version"])
    try:
        check_config(path, config, trusted)
        theano = version < 2 and convolves(config, facts["backend"])
        if version < 2:
            config = renamed(path, config, theano)
        layers = copy.deepcopy(config)
        config = modernized(path, config)
        if version < 3:
            config = hard_sigmoids_written_out(config)
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidModel(f"{path}: its description of the model is not what Keras writes: {error!r}") from error
    with tempfile.TemporaryDirectory(prefix="tightship-") as folder:
        readable = Path(folder, "model.h5")
        _copy_network(path, readable, config)
        if version < 2:
            _reorder_weights(path, readable, layers, flip=theano)
        model = _load(path, readable, trusted)
    if version < 3:
        steepen(path, model)
    wrapped = _wrapped(path, model)
    return replace(wrapped, history=(_told(theano),)) if version < 2 else wrapped


def read_weights(model: keras.Model, path: Path | None = None) -> Model:
    """Wrap a Keras model that was built in Python, with the weights of an HDF5 file where one is given.

    Raises `InvalidModel` where the file is damaged or its weights do not fit the layers.
    """
    if path is None:
        return from_keras(model)
    if path.suffix.lower() not in H5_SUFFIXES:
        raise InvalidModel(f"{path}: expected weights of Keras in a file {', '.join(H5_SUFFIXES)}")
    check_hdf5(path)
    try:
        with quiet_tensorflow():
            model.load_weights(str(path))
    except Exception as error:  # Keras raises what its layers raise
        raise InvalidModel(f"{path}: its weights do not fit the model: {_reason(error)}") from error
    return _wrapped(path, model)


def write_keras(model: Model, path: Path, suffix: str) -> None:
    """Save a model of the keras form at `path`, in the format that `suffix` (`.keras` or `.h5`) names, weights only.

    Raises `UnsupportedError` where Keras cannot describe a layer.
    """
    temporary = path.with_name(f"model{suffix}")  # the suffix in lower case, as above
    options: dict[str, Any] = {} if suffix in KERAS_SUFFIXES else {"include_optimizer": False}
    try:
        with quiet_tensorflow():
            model.content.save(temporary, **options)
            if suffix in H5_SUFFIXES and _has_operations(model.content):
                _describe_operations(model.content, temporary)
    except OSError:
        raise
    except Exception as error:  # layers describe themselves in code of their own
        raise UnsupportedError(f"Keras cannot save the model as {suffix}: {_reason(error)}") from error
    if temporary != path:
        temporary.replace(path)


def _has_operations(model: keras.Model) -> bool:
    """Whether the model, or one inside it, calls `keras.ops` between its layers."""
    import keras

    nested = (layer for layer in model.layers if isinstance(layer, keras.Model))
    operations = getattr(model, "operations", ())
    return any(not isinstance(part, keras.Layer) for part in operations) or any(map(_has_operations, nested))


def _describe_operations(model: keras.Model, path: Path) -> None:
    """Put the description that `.keras` files have into an HDF5 file: that of HDF5 files names operations without their
    module, so that Keras takes `keras.ops.multiply` for the layer Multiply and cannot load what it wrote.
    """
    import h5py
    import keras

    whole = keras.saving.serialize_keras_object(model)
    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]
        file.attrs["model_config"] = json.dumps({"class_name": whole["class_name"], "config": whole["config"]})


def _load(path: Path, readable: Path, trusted: Sequence[str]) -> keras.Model:
    import keras

    try:
        classes = {name.rpartition(".")[2]: _imported(name) for name in trusted if name != LAMBDA}
        with quiet_tensorflow():
            model = keras.saving.load_model(readable, classes, compile=False, safe_mode=LAMBDA not in trusted)
    except Exception as error:  # Keras raises what its layers raise
        raise InvalidModel(f"{path}: Keras cannot load it: {_reason(error)}") from error
    if not isinstance(model, keras.Model):
        raise InvalidModel(f"{path}: expected a Keras model, found a {type(model).__name__}")
    return model


def _imported(name: str) -> type:
    module, _, kind = name.rpartition(".")
    found: type = getattr(importlib.import_module(module), kind)
    return found


def _wrapped(path: Path, model: keras.Model) -> Model:
    try:
        return from_keras(model)
    except InvalidModel as error:
        raise InvalidModel(f"{path}: {error}") from error


def _check_archive(path: Path) -> str:
    """Return the description in a `.keras` file, after its members were judged and their checksums compared."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_members(path, entries)
            damaged = archive.testzip()
            if damaged:
                raise InvalidModel(f"{path}: the checksum of {damaged!r} is wrong; the file is damaged: fetch it again")
            return archive.read(_CONFIG).decode()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InvalidModel(f"{path}: not a .keras file of Keras 3, or cut short: {error}") from error


def _check_members(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    strange = [name for name in names if not _MEMBERS.fullmatch(name) or ".." in name.split("/")]
    if strange:
        raise InvalidModel(f"{path}: holds {strange[0]!r}, which Keras does not write; it is not opened")
    if len(set(names)) < len(names):
        raise InvalidModel(f"{path}: two members have the same name; the file was tampered with")
    missing = {_CONFIG, _WEIGHTS} - set(names)
    if missing:
        raise InvalidModel(f"{path}: not a .keras file of Keras 3: {', '.join(sorted(missing))} is missing")
    whole, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    config = next(entry for entry in entries if entry.filename == _CONFIG)
    if whole > max(_EXPANSION_FLOOR_BYTES, _MAX_EXPANSION * packed) or config.file_size > _MAX_CONFIG_BYTES:
        raise InvalidModel(f"{path}: {packed} bytes that unpack to {whole}; it is not opened")


def _copy_network(path: Path, target_path: Path, config: dict[str, Any]) -> None:
    """Copy the weights, without the optimizer's, beside the modern description: Keras reads files only."""
    import h5py

    with h5py.File(path, "r") as source, h5py.File(target_path, "w") as target:
        source.copy(source["model_weights"], target, "model_weights")
        target.attrs["model_config"] = json.dumps(config)
        for name in ("keras_version", "backend"):
            if name in source.attrs:
                target.attrs[name] = source.attrs[name]


def _told(theano: bool) -> Step:
    """What the history of a file of Keras 1 says of the one thing that had to be guessed or told."""
    return Step("read-keras-1", {"kernels": "turned round, as of Theano" if theano else "as of TensorFlow"})


def _major(version: str) -> int:
    """The first number of a version; files without one are of Keras 1, or older."""
    return int(version.partition(".")[0]) if version[:1].isdigit() else 1


def _reorder_weights(path: Path, readable: Path, config: dict[str, Any], flip: bool) -> None:
    """Put the weights of Keras 1 into the arrays of Keras 2, layer by layer."""
    import h5py

    layers = config["config"] if isinstance(config["config"], list) else config["config"]["layers"]
    with h5py.File(readable, "r+") as file:
        for layer in layers:
            name = layer["config"]["name"] if isinstance(layer["config"], dict) else layer["name"]
            group = file["model_weights"].get(name)
            names = [] if group is None else [_text(part) for part in group.attrs["weight_names"]]
            arrays = reordered(path, layer, [group[part][()] for part in names], flip)
            for part in names:
                del group[part]
            if group is not None:
                group.attrs["weight_names"] = [f"weight_{index}".encode() for index in range(len(arrays))]
            for index, array in enumerate(arrays):
                group[f"weight_{index}"] = array


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _no_network(path: Path, facts: dict[str, Any]) -> str:
    layers = facts["groups"]
    listed = ", ".join(layers[:6]) + (", ..." if len(layers) > 6 else "")
    return (
        f"{path}: holds weights without a network (of the layers {listed or 'none'}); write a function that returns "
        f"the keras.Model they belong to, and give both: package.module:function --weights {path.name}"
    )


def _reason(error: BaseException) -> str:
    """The first paragraph of what Keras says, as one line."""
    return " ".join(str(error).strip().partition("\n\n")[0].split())[:400] or type(error).__name__
