"""Memory that great requests leave behind is given back to the system.

glibc keeps what was freed for the next allocation. After bodies of tens of MiB, cut into pieces by whoever read them,
that is hundreds of MiB of nothing. `malloc_trim` gives it back, in about 0.2 ms per MiB, but for pages on which
something small still lives; so that there are few of these, threads share their arenas and great blocks lie apart.
Clients that vanish leave cycles besides, which are collected first.
https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable, Mapping

from tightship.core.allocator import give_back

__all__ = ["FIRST_WAIT_S", "LONGEST_WAIT_S", "WORTH_BYTES", "MemoryKeeper", "map_great_blocks", "share_arenas"]

WORTH_BYTES = 4 << 20
"""A worker that holds this much more than it once did is tidied; small requests hardly come so far."""

FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 20.0
"""Between two times: twice as long after each that gave little back, since then the memory is in use."""

N_ARENAS = 2
"""A thread of its own arena fills it with what outlives it; these threads take turns at the interpreter anyway."""

APART_BYTES = 1 << 20
"""Blocks from this size on are mapped and unmapped. glibc's own limit rises to 32 MiB with the blocks it has seen."""

KEPT_BYTES = 8 << 20
"""Free memory at the end of the heap that is kept for the next request."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def share_arenas() -> bool:
    """Have this process' threads share arenas, before they start; return whether its allocator is glibc's."""
    return _set({_M_ARENA_MAX: N_ARENAS})


def map_great_blocks() -> bool:
    """Have what is allocated from now on, of `APART_BYTES` or more, lie apart; return as above.

    Called when all is loaded: engines take great blocks by the hundred while they load, and keep them.
    """
    return _set({_M_MMAP_THRESHOLD: APART_BYTES, _M_TRIM_THRESHOLD: KEPT_BYTES})


def _set(parameters: Mapping[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return [mallopt(name, value) for name, value in parameters.items()] == [1] * len(parameters)


class MemoryKeeper:
    """Watches the resident memory of this process; `tend` is called now and then by a thread that may wait."""

    def __init__(
        self,
        resident: Callable[[], int] | None = None,
        trim: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resident = resident or _resident
        self._trim = trim or give_back
        self._clock = clock
        self._lowest = self._resident()
        self._wait_s = FIRST_WAIT_S
        self._next = 0.0

    def tend(self) -> bool:
        """Give memory back where that is worth it; return whether it was tried."""
        held, now = self._resident(), self._clock()
        self._lowest = min(self._lowest, held)
        if held - self._lowest < WORTH_BYTES or now < self._next:
            return False
        self._trim()
        gained = held - self._resident()
        self._wait_s = FIRST_WAIT_S if gained >= WORTH_BYTES // 4 else min(2 * self._wait_s, LONGEST_WAIT_S)
        self._next = now + self._wait_s
        return True


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
