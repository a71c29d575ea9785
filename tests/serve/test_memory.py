"""Memory is given back when there is much of it, and not tried for again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

import psutil
import pytest

from tightship.serve.memory import FIRST_WAIT_S, LONGEST_WAIT_S, N_ARENAS, WORTH_BYTES, MemoryKeeper

MIB = 1 << 20
GLIBC = platform.libc_ver()[0] == "glibc"

ARENAS = """
import ctypes, sys, threading
from tightship.serve.memory import share_arenas
if sys.argv[1] == "shared":
    assert share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
all_here = threading.Barrier(6)
def allocate():
    all_here.wait()
    libc.malloc(5000)
    all_here.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""
"""Six threads allocate at once; then glibc writes down its arenas."""


class Process:
    """Stands in for a process: what it holds, what of that trimming gives back, and the time."""

    def __init__(self, needed: int) -> None:
        self.needed, self.left_over, self.trims, self.now = needed, 0, 0, 1000.0
        self.keeper = MemoryKeeper(lambda: self.needed + self.left_over, self.trim, lambda: self.now)

    def trim(self) -> None:
        self.left_over = 0
        self.trims += 1

    def live(self, seconds: int) -> None:
        """Have its memory looked after for a while, once a second."""
        for _ in range(seconds):
            self.now += 1
            self.keeper.tend()


def test_what_great_requests_left_is_given_back_within_seconds() -> None:
    process = Process(100 * MIB)
    process.live(10)
    assert process.trims == 0
    process.left_over = WORTH_BYTES
    process.live(int(FIRST_WAIT_S))
    assert (process.left_over, process.trims) == (0, 1)
    process.left_over = WORTH_BYTES
    process.live(int(FIRST_WAIT_S))
    assert (process.left_over, process.trims) == (0, 2)


def test_memory_that_is_in_use_is_tried_for_ever_more_rarely_and_still_given_back_when_it_is_not() -> None:
    process = Process(100 * MIB)
    process.needed += 500 * MIB
    process.live(3600)
    assert 170 <= process.trims <= 190  # every twenty seconds in the end
    process.needed, process.left_over = 100 * MIB, 500 * MIB
    process.live(int(LONGEST_WAIT_S) + 1)
    assert process.left_over == 0


@pytest.mark.skipif(not GLIBC, reason="other allocators have no such arenas")
def test_threads_share_the_arenas_of_the_allocator() -> None:
    def arenas(how: str) -> int:
        return subprocess.check_output([sys.executable, "-c", ARENAS, how], text=True).count("<heap nr=")

    assert arenas("shared") <= N_ARENAS < arenas("apart")


@pytest.mark.skipif(not GLIBC, reason="other allocators give memory back by themselves")
def test_fragments_of_freed_memory_are_really_given_back() -> None:
    keeper = MemoryKeeper()
    pieces = [bytes(100_000) for _ in range(1000)]
    kept = pieces[::50]
    del pieces
    before = psutil.Process().memory_info().rss
    assert keeper.tend() and before - psutil.Process().memory_info().rss > 50 * MIB
    assert len(kept) == 20
