"""Networks that hang, crash and fail when they are built."""

from __future__ import annotations

import os
import signal
import time


def hang() -> None:
    time.sleep(1000)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> None:
    raise ValueError("no such network")
