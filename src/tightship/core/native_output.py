"""What libraries written in C++ say on the terminal by themselves, past Python's own streams."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["native_output_hidden"]


@contextmanager
def native_output_hidden() -> Iterator[None]:
    """Send what is written to the descriptors of stdout and stderr nowhere for the length of the block.

    Python's own streams are flushed before, so that nothing of them is lost.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    try:
        with Path(os.devnull).open("wb") as nowhere:
            for number in kept:
                os.dup2(nowhere.fileno(), number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
