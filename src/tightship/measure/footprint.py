"""Peak memory of a model on a target, measured in a process of its own so that nothing else is counted.

child: Python, numpy, inputs | engine, model, a few runs
                             ^ memory before             peak of all after = peak - before
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from tightship.core import atomic
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.errors import EngineError

__all__ = ["child", "peak_memory"]

N_RUNS = 3

SUFFIX = {"graph": ".onnx", "module": ".pt2", "keras": ".keras"}
"""The file that a model in memory is written to for the child, by its form."""


@dataclass(frozen=True)
class _Task:
    path: Path
    target: Target
    inputs: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Answer:
    peak_bytes: int = 0
    error: str = ""


def peak_memory(
    source: Model | Path, target: Target, inputs: Mapping[str, np.ndarray], timeout_s: float = 600.0
) -> int:
    """Return by how many bytes the resident memory of a process grows at most when it loads the engine's library and
    the model, and runs it three times on `inputs`.

    Counted are all resident pages, mapped files too; not counted are Python, numpy and the inputs. A Model in memory is
    written to a temporary file for the child, which is removed whatever happens.
    Raises `EngineError` where the child fails, crashes or takes longer than `timeout_s`.
    """
    with _as_file(source) as path:
        task = pickle.dumps(_Task(path.absolute(), target, dict(inputs)))
        answer = _ask(task, str(target), timeout_s)
    if answer.error:
        raise EngineError(f"measuring memory on {target}: {answer.error}")
    return answer.peak_bytes


def child() -> None:
    """Be the child: read a task from standard input, write the answer to standard output."""
    reply = os.dup(1)
    os.dup2(2, 1)  # what engines print must not mix with the answer
    task = pickle.load(sys.stdin.buffer)  # written by our own parent
    try:
        answer = _Answer(peak_bytes=_measure(task))
    except Exception as error:  # whatever it is, the parent is to hear of it
        answer = _Answer(error=str(error) or type(error).__name__)
    os.write(reply, msgspec.json.encode(answer))


def _measure(task: _Task) -> int:
    from tightship.engines import open_session

    _forget_peak()
    before = _resident_bytes()
    with open_session(task.path, task.target) as session:
        for _ in range(N_RUNS):
            session.run(task.inputs)
        return max(_peak_bytes() - before, 0)


def _ask(task: bytes, name: str, timeout_s: float) -> _Answer:
    command = [sys.executable, "-c", "from tightship.measure.footprint import child; child()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    try:
        done = subprocess.run(command, input=task, capture_output=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired:
        raise EngineError(f"measuring memory on {name} took longer than {timeout_s:g} s and was stopped") from None
    if done.returncode < 0:
        cause = signal.Signals(-done.returncode).name
        raise EngineError(f"measuring memory on {name}: the process that ran the model was ended by {cause}")
    try:
        return msgspec.json.decode(done.stdout, type=_Answer)
    except msgspec.DecodeError:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise EngineError(f"measuring memory on {name}: the process that ran the model failed: {last}") from None


@contextmanager
def _as_file(source: Model | Path) -> Iterator[Path]:
    if isinstance(source, Path):
        yield source
        return
    from tightship import formats

    holder = _holder()
    try:
        yield formats.write(source, holder / f"model{SUFFIX[source.form]}").path
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _holder() -> Path:
    # Under a folder of our own and named after this process, so that what a killed run left is swept by the next.
    import platformdirs

    root = Path(platformdirs.user_cache_dir("tightship")) / "footprint"
    root.mkdir(parents=True, exist_ok=True)
    atomic.sweep(root)
    return Path(tempfile.mkdtemp(prefix=f".tmp-{os.getpid()}-", dir=root))


def _forget_peak() -> None:
    # Linux: 5 resets the peak to what is resident now, so that the peak of the imports does not count.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would hold the parent's peak: Linux hands it on through fork and exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
