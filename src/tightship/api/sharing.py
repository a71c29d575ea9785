"""`push` and `pull` through registries, and `export` to what other tools read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tightship.errors import UsageError, nearest
from tightship.package.exports import EXPORTS, Export, Exported, of_model, of_package, write_export
from tightship.package.oci import Access, Pulled, Pushed, pull, push
from tightship.package.opening import NO_KEYS, Keys, is_package

__all__ = ["EXPORTS", "Access", "Exported", "Pulled", "Pushed", "export", "pull", "push"]


def export(
    source: str | Path,
    format: str,
    folder: Path,
    keys: Keys = NO_KEYS,
    artifact: str = "",
    options: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a model of a package, or a model file, as the folder that another tool reads.

    `format` is a row of `EXPORTS` and `options` are its fields (`max_batch`, `storage_uri`); `artifact` names the model
    where a package holds several. The model's files are the package's, byte by byte.
    Raises `UsageError`, `UnsupportedError` where the other tool does not take the model, `OutputError`, and what
    opening a package raises.
    """
    kind = _kind(format, options or {})
    if not is_package(source):
        if artifact:
            raise UsageError(f"{source} is one model; --artifact chooses among those of a package")
        return write_export(kind, of_model(Path(source), kind.takes), folder)
    with keys.open(source) as package:
        return write_export(kind, of_package(package, kind.takes, artifact), folder)


def _kind(name: str, options: Mapping[str, Any]) -> Export:
    row = EXPORTS[name]
    known = [field.name for field in fields(row)]
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"export {name} has no option {option}{nearest(option, known)}; {has}")
    return row(**options)
