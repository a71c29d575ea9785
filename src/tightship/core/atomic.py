"""Files are written whole or not at all: a temporary neighbour is written, flushed to disk and renamed.

The name of a temporary holds the number of the process that writes it, so that `sweep` can tell a stale one.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from tightship.errors import OutputError

__all__ = ["check_writable", "folder_beside", "replace_folder", "sweep", "write_bytes", "write_text", "writing"]

_REPLACED = "replaced"
_TEMPORARY = re.compile(r"^\.tmp-(\d+)-")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a temporary folder-mate of `path` to write a file or folder at; rename it to `path` when the block ends.

    Raises `OutputError` where the place cannot be written or the disk is full; the temporary is removed.
    """
    holder = _temporary_beside(path)
    try:
        temporary = holder / path.name
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; nothing was left behind") from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Give an empty folder on the disk of `path`, to stage files in that are then renamed; it is removed at the end."""
    holder = _temporary_beside(path)
    try:
        yield holder
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; nothing was left behind") from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole."""
    with writing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole."""
    write_bytes(path, text.encode())


def check_writable(path: Path, ours: frozenset[str] | None) -> None:
    """Raise `OutputError` where `path` could not be written later: a folder of files like `ours`, or a file (None).

    What a killed process left beside it is swept.
    """
    if ours is not None:
        _refuse_strangers(path, ours)
    elif path.is_dir():
        raise OutputError(f"{path} is a folder; the output is to be a file there")
    holder = _temporary_beside(path)
    holder.rmdir()
    sweep(path.parent)


@contextmanager
def replace_folder(path: Path, ours: frozenset[str]) -> Iterator[Path]:
    """Give a temporary folder to fill; it takes the place of `path` when the block ends.

    An existing `path` is replaced only if all it holds has names like `ours` (`*` stands for anything), so that no
    stranger's file is lost.
    """
    _refuse_strangers(path, ours)
    with writing(path) as temporary:
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rename(temporary.parent / _REPLACED)


def sweep(folder: Path) -> int:
    """Remove temporaries in `folder` whose process has ended; return how many."""
    import psutil

    stale = [
        child
        for child in (folder.iterdir() if folder.is_dir() else ())
        if (match := _TEMPORARY.match(child.name)) and not psutil.pid_exists(int(match[1]))
    ]
    for child in stale:
        _put_back(child)
        shutil.rmtree(child, ignore_errors=True)
    return len(stale)


def _temporary_beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".tmp-{os.getpid()}-", dir=path.parent))
    except OSError as error:
        raise OutputError(f"cannot write to {path.parent}: {error.strerror}; choose another place") from error


def _refuse_strangers(path: Path, ours: frozenset[str]) -> None:
    names = sorted(child.name for child in path.iterdir()) if path.is_dir() else []
    strangers = [name for name in names if not any(fnmatch(name, pattern) for pattern in ours)]
    if strangers or (path.exists() and not path.is_dir()):
        found = f"files that are not ours: {', '.join(strangers[:3])}" if strangers else "a file"
        raise OutputError(f"{path} holds {found}; choose an empty or new folder for the output")


def _put_back(holder: Path) -> None:
    """Where a process was killed between moving an old folder away and the new one in, move the old one back."""
    replaced = holder / _REPLACED
    for new in holder.iterdir():
        if replaced.exists() and new != replaced and not (holder.parent / new.name).exists():
            replaced.rename(holder.parent / new.name)


def _flush(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _flush(child)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
