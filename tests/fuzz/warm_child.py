"""Children of a process that has imported already what they need: forked in milliseconds, not started in a second.

All else is as `core.child` has it: a process, its limits and its answer for each input. The process that forks has one
thread and reads no input itself.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from unittest import mock

from tightship.core import child
from tightship.errors import InvalidModel

__all__ = ["reused"]

_PAUSE_S = 0.0005
_CPU_S = 1
"""Less than users' files have, since nothing has to be imported; an endless one costs the run no more than that."""

_MODULES = ("h5py", "hdf5plugin", "tightship.weights.hdf5")
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@contextmanager
def reused() -> Iterator[None]:
    """While this lasts, `run_in_child` forks."""
    with mock.patch.object(child, "_run", _run):
        yield


_forks: list[subprocess.Popen[str]] = []


def _run(command: list[str], heard: IO[bytes], timeout_s: float, purpose: str) -> int:
    """In place of `core.child._run`: the last two words of the command are where request and reply lie."""
    asked = {"request": command[-2], "reply": command[-1], "heard": heard.name, "timeout_s": timeout_s}
    try:
        status = _ask(asked)
    except BaseException:
        _end()  # an answer that comes late must not be taken for that of the next input
        raise
    if status is None:
        raise InvalidModel(f"{purpose}: stopped after {timeout_s:.0f} s; the file is not used")
    return status


def _ask(asked: dict[str, Any]) -> int | None:
    if not _forks:
        _forks.append(_started())
        atexit.register(_end)
    (process,) = _forks
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the process that forks is gone")
    status: int | None = json.loads(line)["status"]
    return status


def _started() -> subprocess.Popen[str]:
    """Start the process that forks; it imports from where this one does."""
    surroundings = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.warm_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=surroundings,
        cwd=Path(__file__).parents[2],
    )


def _end() -> None:
    while _forks:
        process = _forks.pop()
        process.kill()
        process.wait()


def _serve_all() -> None:
    """Fork for each line of standard input, and tell how the child ended."""
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            _serve(asked)
        print(json.dumps({"status": _status(pid, asked["timeout_s"])}), flush=True)


def _serve(asked: dict[str, Any]) -> None:
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor, source in ((0, null), (1, null), (2, os.open(asked["heard"], os.O_WRONLY | os.O_APPEND))):
            os.dup2(source, descriptor)
        request = json.loads(Path(asked["request"]).read_text("utf-8"))
        child.serve({**request, "cpu_s": _CPU_S}, Path(asked["reply"]))
    finally:
        os._exit(0)


def _status(pid: int, timeout_s: float) -> int | None:
    end = time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    for module in _MODULES:
        with contextlib.suppress(ImportError):
            __import__(module)
    _serve_all()
