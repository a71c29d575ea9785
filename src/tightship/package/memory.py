"""Memory that holds a file: taken at once from the system, and given back as soon as nothing looks at it."""

from __future__ import annotations

import mmap

__all__ = ["memory_for"]

_AT_ONCE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)


def memory_for(size: int) -> memoryview:
    """Return `size` bytes of zeros, writable.

    Linux is asked for all pages now: each on first use, they cost twice as much, and more than decrypting what is
    written to them. (Large pages were no gain on a virtual machine, whose host had none ready.)
    """
    return memoryview(mmap.mmap(-1, size, flags=_AT_ONCE)) if size else memoryview(bytearray())
