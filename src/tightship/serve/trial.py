"""Loading a new version in a process of its own first: its engine may crash, and take the process along."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from tightship.errors import TightshipError
from tightship.serve.children import end_with_parent, ended

if TYPE_CHECKING:
    from tightship.serve.loaded import Opener

__all__ = ["try_apart"]

POLL_S = 0.1


def try_apart(opener: Opener, path: Path, stop: Event) -> str:
    """Open and warm a version in another process; return how that was killed, or an empty text.

    What else is wrong with the version is told by who opens it next. `stop` ends it early.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_try, args=(opener, path), name="tightship-trial", daemon=True
    )
    process.start()
    while process.is_alive() and not stop.is_set():
        process.join(POLL_S)
    if process.is_alive():
        process.kill()
        process.join()
        return ""
    code = process.exitcode
    return "" if code is None or code >= 0 else f"the process that tried it first {ended(code)}"


def _try(opener: Opener, path: Path) -> None:
    end_with_parent()
    try:
        opener.open("trial", "", path)
    except TightshipError:
        return
