"""Exports: folders that other tools read, made of one model of a package. One file each; this is their table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tightship.core import atomic
from tightship.core.artifact import file_digest
from tightship.core.table import Table
from tightship.package.exports.export import Export
from tightship.package.exports.exportable import Exportable, of_model, of_package
from tightship.package.exports.folder import Folder
from tightship.package.exports.kserve import KServe
from tightship.package.exports.mlflow import MLflow
from tightship.package.exports.triton import Triton

__all__ = ["EXPORTS", "Export", "Exportable", "Exported", "of_model", "of_package", "write_export"]

EXPORTS: Table[type[Export]] = Table("export format", {kind.name: kind for kind in (MLflow, Triton, KServe, Folder)})


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, the model in it and its SHA-256 (empty where it is a folder), and every file."""

    format: str
    folder: str
    model: str
    model_sha256: str
    files: tuple[str, ...]


def write_export(kind: Export, model: Exportable, folder: Path) -> Exported:
    """Write an export whole or not at all; an earlier one of the same kind and model is replaced.

    Raises `OutputError` where the folder holds anything else, `UnsupportedError`, and what reading the package raises.
    """
    atomic.check_writable(folder, kind.ours(model))
    with atomic.replace_folder(folder, kind.ours(model)) as stage:
        path = kind.write(model, stage)
        place = path.relative_to(stage)
        digest = file_digest(path) if path.is_file() else ""
        files = sorted(child.relative_to(stage).as_posix() for child in stage.rglob("*") if child.is_file())
    return Exported(kind.name, str(folder), place.as_posix(), digest, tuple(files))
