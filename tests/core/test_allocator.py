"""Freed memory goes back to the system when it is asked for."""

from __future__ import annotations

import platform

import psutil
import pytest

from tightship.core.allocator import give_back

MIB = 1 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators give memory back by themselves")
def test_what_lies_between_pieces_in_use_is_given_back() -> None:
    pieces = [bytes(100_000) for _ in range(1000)]
    kept = pieces[::50]
    del pieces
    before = psutil.Process().memory_info().rss
    give_back()
    assert before - psutil.Process().memory_info().rss > 50 * MIB
    assert len(kept) == 20
