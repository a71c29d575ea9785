"""Reading what is declared about processing: a TOML file and the files it names, or the manifest of a package."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Callable, Container
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from tightship.core.specs import TensorSpec
from tightship.errors import PackageError, UsageError, nearest
from tightship.package import strict_json
from tightship.package.fitting import fit
from tightship.package.processing import MAX_FILE_BYTES, OutputMeaning, Processing, TextInput

__all__ = ["ProcessingFiles", "check_known", "check_packed", "read_labels", "read_vocabulary"]

FOLDER = "processing"
MAX_DECLARATION_BYTES = 1 << 20
MAX_LABELS = 1 << 20
MAX_LABEL_LENGTH = 1000


@dataclass(frozen=True)
class ProcessingFiles:
    """What a user names: a TOML file, a file of labels, a tokenizer.json; the latter two count before the TOML's."""

    declaration: str | Path | None = None
    labels: str | Path | None = None
    tokenizer: str | Path | None = None

    def load(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> tuple[Processing | None, dict[str, Path]]:
        """What the manifest says, fitted to the model, and the files by their names in the package.

        Raises `UsageError` where a file, a name or a number is wrong, or does not fit the model.
        """
        if self.declaration is None and self.labels is None and self.tokenizer is None:
            return None, {}
        declared = Processing() if self.declaration is None else _read(Path(self.declaration))
        text, meaning = declared.text, declared.outputs
        folder = Path() if self.declaration is None else Path(self.declaration).parent
        files: dict[str, Path] = {}
        n_labels = None
        if vocabulary := _named(self.tokenizer, text.vocabulary if text else "", folder):
            text = replace(text or TextInput(), vocabulary=_packed(vocabulary, "vocabulary", files))
            _checked(vocabulary, lambda data: read_vocabulary(data, str(vocabulary)))
        if labels := _named(self.labels, meaning.labels if meaning else "", folder):
            meaning = replace(meaning or OutputMeaning(), labels=_packed(labels, "labels", files))
            n_labels = _checked(labels, lambda data: len(read_labels(data, str(labels))))
        try:
            return fit(replace(declared, text=text, outputs=meaning), inputs, outputs, n_labels), files
        except ValueError as error:
            raise UsageError(f"{self.declaration or self.tokenizer or self.labels}: {error}") from error


def check_known(value: object, kind: Any, where: str = "") -> None:
    """Raise `ValueError` where a table, or one in it, has a name that `kind` does not know."""
    kinds = [entry for entry in (kind, *typing.get_args(kind)) if is_dataclass(entry)]
    if not kinds or not isinstance(value, dict):
        return
    hints = typing.get_type_hints(kinds[0])
    for name, entry in value.items():
        if name not in hints:
            known = [field.name for field in fields(kinds[0])]
            raise ValueError(f"unknown name {where + str(name)[:80]!r}{nearest(str(name), known)}; known: {known}")
        check_known(entry, hints[name], f"{where}{name}.")


def check_packed(processing: Processing, files: Container[str]) -> None:
    """Raise `PackageError` where a file that is declared is not in the package."""
    for name in processing.files:
        if name not in files:
            raise PackageError(f"processing names the file {name}, which the package does not have")


def read_labels(data: bytes, name: str) -> tuple[str, ...]:
    """The labels of a text, one per line, or of a JSON list where `name` ends in .json. Raises `PackageError`."""
    try:
        found = strict_json.load(data, MAX_FILE_BYTES) if name.endswith(".json") else _lines(data)
        labels = msgspec.convert(found, tuple[str, ...])
    except (ValueError, msgspec.ValidationError) as error:
        raise PackageError(f"{name} is no list of labels, one per line in UTF-8: {str(error)[:200]}") from error
    if not 1 <= len(labels) <= MAX_LABELS or max(map(len, labels)) > MAX_LABEL_LENGTH:
        raise PackageError(
            f"{name} has {len(labels)} labels; expected 1 to {MAX_LABELS}, of up to {MAX_LABEL_LENGTH} characters"
        )
    return labels


def read_vocabulary(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object: a tokenizer, or characters and their numbers. Raises `PackageError`."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"{name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise PackageError(f"{name} is no JSON object; expected a tokenizer.json, or characters and their numbers")
    return found


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")


def _read(path: Path) -> Processing:
    data = _bytes(path, MAX_DECLARATION_BYTES)
    try:
        value = tomllib.loads(data.decode("utf-8"))
        check_known(value, Processing)
        return msgspec.convert(value, Processing)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise UsageError(f"{path} declares no processing: {error}; see docs/serve.md") from error


def _named(given: str | Path | None, declared: str, folder: Path) -> Path | None:
    if given is not None:
        return Path(given)
    return folder / declared if declared else None


def _packed(path: Path, stem: str, files: dict[str, Path]) -> str:
    name = f"{FOLDER}/{stem}{'.json' if path.suffix == '.json' else '.txt'}"
    files[name] = path
    return name


def _checked(path: Path, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(_bytes(path, MAX_FILE_BYTES))
    except PackageError as error:
        raise UsageError(str(error)) from error


def _bytes(path: Path, limit: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > limit:
            raise UsageError(f"{path} has {size:,} bytes; expected at most {limit:,}")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
