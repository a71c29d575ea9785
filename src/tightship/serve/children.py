"""Processes that another one has started: that they end with it, and how they ended."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

__all__ = ["end_with_parent", "ended"]


def end_with_parent() -> None:
    """Have the kernel end this process where the one that started it is killed: a killed server must free its ports."""
    with suppress(OSError, AttributeError):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() == 1:
            raise SystemExit(0)


def ended(code: int | None) -> str:
    """Say how a process ended: below zero its exit code is the signal that killed it."""
    if code is None or code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
