"""How an attack is mounted: through the command line, with the clock, the memory and the folder watched."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tightship.cli import main

__all__ = ["TIME_S", "Attack", "check_refused"]

Attack = Callable[[Path], Path]
"""Writes a hostile file, and what belongs to it, into an empty folder, and returns the file."""

TIME_S = 5.0
"""The most that refusing may take, beside importing libraries."""

_OWN_BYTES = 256 * 2**20
"""The most that this process may grow by; seen: below 100 MiB, most of which is libraries that were not loaded yet."""

_CHILD_BYTES = 2 * 2**30
"""The most that a child process may hold; seen: 0.9 GB, for TensorFlow."""


def check_refused(
    command: Sequence[str], file: Path, exit_code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Assert that a command on a hostile file ends with one error of this code, soon, in little memory, and that no
    file appears or changes.
    """
    before = _listed(file.parent)
    peak, started = _peak_bytes(resource.RUSAGE_SELF), time.perf_counter()
    of_earlier_children = _peak_bytes(resource.RUSAGE_CHILDREN)  # the largest of all that this process has ever had
    found = main([*command])
    seconds = time.perf_counter() - started
    said = capsys.readouterr().err.strip()
    assert found == exit_code, said
    assert said.count("error:") == 1 and "Traceback" not in said
    assert says in said and file.name in said
    assert seconds < TIME_S
    assert _peak_bytes(resource.RUSAGE_SELF) - peak < _OWN_BYTES
    assert _peak_bytes(resource.RUSAGE_CHILDREN) < max(_CHILD_BYTES, of_earlier_children + 1)
    assert _listed(file.parent) == before


def _peak_bytes(whose: int) -> int:
    return resource.getrusage(whose).ru_maxrss * 1024


def _listed(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in found}
