"""The C library's allocator keeps what was freed for later; after great arrays that can be much, and is of no use."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

__all__ = ["give_back"]


def give_back() -> None:
    """Give freed pages back to the system, where the allocator can be told to (glibc); 0.2 ms per MiB that is."""
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return found if found is not None else lambda _kept: None
