"""What lies in a Core ML package: the model's message, and the folder of its weights.

A `.mlpackage` folder names its files in `Manifest.json`; a `.mlmodel` file is the message itself.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tightship.core.native_output import native_output_hidden
from tightship.errors import InvalidModel

__all__ = ["open_package"]

_MANIFEST = "Manifest.json"
_MAX_MANIFEST_BYTES = 2**20
_MAX_MESSAGE_BYTES = 2**31 - 1


def open_package(path: Path) -> tuple[Any, Path | None]:
    """Return the `Model` message (coremltools' protobuf) and the folder of weights, None for a single file.

    Raises `InvalidModel` where the manifest leads out of the package, or the message is cut short or none at all.
    """
    message = _model_file(path) if path.is_dir() else path
    spec = _parsed(message, path)
    return spec, message.parent / "weights" if path.is_dir() else None


def _model_file(folder: Path) -> Path:
    manifest = folder / _MANIFEST
    if not manifest.is_file() or manifest.stat().st_size > _MAX_MANIFEST_BYTES:
        raise InvalidModel(f"{folder}: expected a {_MANIFEST} that names the model's file; this is no Core ML package")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        relative = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        found = (folder / "Data" / relative).resolve()
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise InvalidModel(f"{folder}: {_MANIFEST} does not name the model's file: {error!r}") from error
    if not found.is_relative_to((folder / "Data").resolve()):
        raise InvalidModel(f"{folder}: {_MANIFEST} names {relative!r}, which lies outside the package")
    if not found.is_file():
        raise InvalidModel(f"{folder}: {_MANIFEST} names {relative!r}, which is not there")
    return Path(found)


def _parsed(message: Path, path: Path) -> Any:
    size = message.stat().st_size
    if not 0 < size <= _MAX_MESSAGE_BYTES:
        raise InvalidModel(f"{path}: a model's message has 1 byte to 2 GiB, found {size} bytes")
    with ExitStack() as stack:
        stack.enter_context(native_output_hidden())
        from coremltools.proto import Model_pb2
    spec = Model_pb2.Model()
    try:
        spec.ParseFromString(message.read_bytes())
    except Exception as error:  # protobuf's error is that of its implementation
        raise InvalidModel(f"{path}: its {size} bytes are no Core ML model: {error}") from error
    if spec.WhichOneof("Type") is None or not spec.specificationVersion:
        raise InvalidModel(f"{path}: its {size} bytes hold no model; the file is cut short or no Core ML model")
    return spec
