"""What the description of a Keras model may hold: Keras' own layers and functions, and plain values.

Keras' safe mode refuses pickled lambdas; this refuses, before Keras sees it, whatever names code of other modules,
reads other files or wraps other frameworks, and names all of it at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tightship.errors import InvalidModel, UnsupportedError

__all__ = ["LAMBDA", "check_config", "parse_config"]

LAMBDA = "Lambda"
"""The name by which a user trusts the Python code that Lambda layers keep in the file."""

Config = dict[str, Any]

_MODULE = re.compile(
    r"keras|builtins|keras(\.src)?\.(layers|models|activations|initializers|regularizers|constraints|ops|dtype_policies"
    r"|quantizers|losses|metrics|optimizers|random|engine|engine\.\w+)(\.\w+)*"
)
_WRAPPERS = frozenset({"TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer", "PyFunc"})
_LAMBDA = frozenset({LAMBDA, "__lambda__"})
_FILES = frozenset({"vocabulary", "idf_weights", "mean_path", "filepath"})
_MAX_NAMED = 8


def parse_config(path: Path, text: str) -> Config:
    """Parse the description of a model. Raises `InvalidModel` where it is no JSON object."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{path}: its description of the model is no JSON: {str(error)[:200]}") from error
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str) or "config" not in config:
        raise InvalidModel(f"{path}: its description of the model names no class and config; is it a Keras model?")
    return config


def check_config(path: Path, config: Config, trusted: Collection[str] = ()) -> None:
    """Raise `UnsupportedError` naming every layer that is not Keras' own or could run code.

    `trusted` names classes (`package.module.Class`) that Keras may import, and `Lambda` for code in the file.
    """
    try:
        reasons = list(dict.fromkeys(_faults(config, "the model", trusted)))
    except RecursionError as error:
        raise InvalidModel(f"{path}: its description of the model is nested too deeply") from error
    if reasons:
        more = f" and {len(reasons) - _MAX_NAMED} more" if len(reasons) > _MAX_NAMED else ""
        raise UnsupportedError(
            f"{path}: not opened, since {'; '.join(reasons[:_MAX_NAMED])}{more}. Where you trust the file, name what "
            "may run (--trust-pickle Lambda, --trust-pickle package.module.Class), or load it in your own Python, "
            "export it with model.export('folder') and give tightship that folder"
        )


def _faults(value: Any, owner: str, trusted: Collection[str]) -> Iterator[str]:
    """What is wrong in a part of the description; `owner` is the layer that it belongs to."""
    if isinstance(value, list):
        for item in value:
            yield from _faults(item, owner, trusted)
    if not isinstance(value, dict):
        return
    if "class_name" in value:
        owner = _owner(value, owner)
        if fault := _fault(value, trusted):
            yield f"{owner} {fault}"
    for key, item in value.items():
        if key in _FILES and isinstance(item, str):
            yield f"{owner} would read the file {item[:80]!r}"
        if key == "custom_objects" and item:
            yield f"{owner} names custom objects"
        yield from _faults(item, owner, trusted)


def _owner(value: Config, owner: str) -> str:
    config = value.get("config")
    name = value.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return f"layer {name!r}" if isinstance(name, str) else owner


def _fault(value: Config, trusted: Collection[str]) -> str:
    kind, module, registered = (value.get(key) for key in ("class_name", "module", "registered_name"))
    if not isinstance(kind, str) or not isinstance(module, str | None) or not isinstance(registered, str | None):
        return "has a class that is no name"
    if kind in _LAMBDA:
        return "" if LAMBDA in trusted else "is a Lambda: Python code in the file"
    if kind in _WRAPPERS:
        return f"is a {kind}: it loads a model of another kind"
    if f"{module}.{kind}" in trusted:
        return ""
    if module is not None and not _MODULE.fullmatch(module):
        return f"is a {kind} of the module {module}"
    if registered is not None and ">" in registered:
        return f"is the custom class {registered}"
    return ""
