"""Memory that great requests leave behind is given back to the system.

glibc keeps what was freed for the next allocation. After bodies of tens of MiB, cut into pieces by whoever read them,
that is hundreds of MiB of nothing. `malloc_trim` gives it back, in about 0.2 ms per MiB.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

__all__ = ["FIRST_WAIT_S", "LONGEST_WAIT_S", "WORTH_BYTES", "MemoryKeeper"]

WORTH_BYTES = 4 << 20
"""A worker that holds this much more than it once did is tidied; small requests hardly come so far."""

FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 20.0
"""Between two times: twice as long after each that gave little back, since then the memory is in use."""


class MemoryKeeper:
    """Watches the resident memory of this process; `tend` is called now and then by a thread that may wait."""

    def __init__(
        self,
        resident: Callable[[], int] | None = None,
        trim: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resident = resident or _resident
        self._trim = trim or _trim_of_the_system()
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


def _trim_of_the_system() -> Callable[[], object]:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return (lambda: None) if trim is None else lambda: trim(0)
