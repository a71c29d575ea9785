"""Files of torch.save, opened as data only: nothing that a pickle names is imported or called."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

from tightship.errors import InvalidModel

__all__ = ["check_zip", "load_data"]

_WANTED = re.compile(r"GLOBAL ([\w.]+)|function ([\w.]+)|class ([\w.]+)")


def check_zip(path: Path) -> None:
    """Raise `InvalidModel` where a zip archive as torch writes it is damaged: truncated, wrong checksum, or packed.

    torch stores members unpacked and does not look at their checksums; a packed member could grow without bound.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            grown = sum(entry.file_size for entry in entries) > path.stat().st_size
            damaged = None if packed or grown else archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InvalidModel(f"{path}: not a file of torch.save or torch.export.save, or cut short: {error}") from error
    if packed or grown:
        raise InvalidModel(f"{path}: its members are compressed or overlap, as torch never writes them; not opened")
    if damaged:
        raise InvalidModel(f"{path}: the checksum of {damaged!r} is wrong; the file is damaged: fetch it again")


def load_data(source: Path | IO[bytes], what: str) -> Any:
    """Load tensors and plain containers to the CPU; `what` names the source in errors.

    Raises `InvalidModel` where the bytes are damaged, or are a pickle that wants to call anything else.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about its own formats
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler raises many types on foreign bytes
        wanted = _WANTED.search(str(error))
        if wanted is None:
            raise InvalidModel(f"{what}: not a file of torch.save, or damaged: {_last_line(error)}") from error
        name = next(group for group in wanted.groups() if group)
        raise InvalidModel(
            f"{what}: a pickle that wants to call {name}, which may run any code; tightship opens tensors only: save "
            "them alone with torch.save(model.state_dict(), path)"
        ) from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "weights_only" not in line and "http" not in line), "")
