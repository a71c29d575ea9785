"""Foreign parsers that may crash or grow without bound run in a fresh process with limits on memory and time.

Arguments and results are plain values (numbers, text, lists, dicts, paths), exchanged as JSON: nothing is unpickled.
Large results are files that the function writes at paths it is given.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tightship import errors
from tightship.errors import InvalidModel, TightshipError

__all__ = ["DEFAULT_MEMORY_BYTES", "run_in_child"]

DEFAULT_MEMORY_BYTES = 8 * 2**30
"""Address space of a child, which is more than it touches: TensorFlow and its threads map about 3 GiB."""

_MAX_OUTPUT_BYTES = 64 * 2**30
_MAX_TEXT = 400

# The child imports from where its parent does, and from nowhere else (-I).
_START = (
    "import json, pathlib, sys; request = json.loads(pathlib.Path(sys.argv[1]).read_text('utf-8'));"
    "sys.path[:] = request['path']; from tightship.core.child import serve; serve(request, pathlib.Path(sys.argv[2]))"
)


def run_in_child(
    function: str,
    arguments: Sequence[Any],
    *,
    purpose: str,
    timeout_s: float = 300,
    cpu_s: float | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Any:
    """Call `function` (`package.module:name`) in a fresh Python and return its result.

    `purpose` begins every message and names the file (`reading model.h5`). A `TightshipError` raised inside comes out
    as it was. Any other end (a signal, more memory or time than allowed, another exception) is an `InvalidModel`.
    `cpu_s` is the time of a processor, which does not pass while others are busy; else all cores for `timeout_s`.
    Where the system has no such limits (memory on macOS), only the time is limited.
    """
    limits = {"cpu_s": cpu_s or timeout_s * (os.cpu_count() or 1), "memory_bytes": memory_bytes}
    with tempfile.TemporaryDirectory(prefix="tightship-") as folder:
        request, reply = Path(folder, "request.json"), Path(folder, "reply.json")
        request.write_text(json.dumps(_request(function, arguments, limits)), encoding="utf-8")
        with Path(folder, "stderr").open("w+b") as heard:
            status = _run([sys.executable, "-I", "-c", _START, str(request), str(reply)], heard, timeout_s, purpose)
            if not reply.is_file():
                raise InvalidModel(f"{purpose}: {_end(status, memory_bytes)}{_last_line(heard)}; the file is not used")
        answer = json.loads(reply.read_text(encoding="utf-8"))
    if "error" in answer:
        raise _error(answer, purpose)
    return answer["result"]


def serve(request: dict[str, Any], reply: Path) -> None:
    """What the child does: limit itself, call the function and write the answer whole."""
    _limit(request["memory_bytes"], request["cpu_s"])
    module, _, name = request["function"].partition(":")
    try:
        answer = {"result": getattr(importlib.import_module(module), name)(*map(_decoded, request["arguments"]))}
    except TightshipError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        answer = {"error": "", "message": f"it needs more than {request['memory_bytes'] / 2**30:.1f} GiB of memory"}
    except Exception as error:  # a parser may raise anything
        answer = {"error": "", "message": f"{type(error).__name__}: {' '.join(str(error).split())[:_MAX_TEXT]}"}
    whole = reply.with_suffix(".part")
    whole.write_text(json.dumps(answer, default=_encoded), encoding="utf-8")
    whole.replace(reply)


def _request(function: str, arguments: Sequence[Any], limits: dict[str, float]) -> dict[str, Any]:
    return {
        **limits,
        "function": function,
        "arguments": [_encoded(value) if isinstance(value, Path) else value for value in arguments],
        "path": [str(Path(entry).resolve()) for entry in sys.path],
    }


def _encoded(value: object) -> dict[str, str]:
    if isinstance(value, Path):
        return {"path": str(value.resolve())}
    raise TypeError(f"expected a plain value or a path, found {type(value).__name__}")


def _decoded(value: Any) -> Any:
    return Path(value["path"]) if isinstance(value, dict) and value.keys() == {"path"} else value


def _run(command: list[str], heard: IO[bytes], timeout_s: float, purpose: str) -> int:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=heard, start_new_session=True
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise InvalidModel(f"{purpose}: stopped after {timeout_s:.0f} s; the file is not used") from error
    finally:  # its own children too, and where the user presses Ctrl-C
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _limit(memory_bytes: int, cpu_s: float) -> None:
    import resource

    seconds = int(cpu_s) + 1
    for kind, soft, hard in (
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_CPU, seconds, seconds + 1),  # the first is a signal that tells what was used up
        (resource.RLIMIT_FSIZE, _MAX_OUTPUT_BYTES, _MAX_OUTPUT_BYTES),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS; a lower limit may be set already
            resource.setrlimit(kind, (soft, hard))


def _end(status: int, memory_bytes: int) -> str:
    if status == -signal.SIGXCPU:
        return "the process that read it used up its time"
    if status < 0:
        return (
            f"the process that read it ended by {signal.Signals(-status).name} "
            f"(with at most {memory_bytes / 2**30:.1f} GiB of memory)"
        )
    return f"the process that read it ended with status {status}"


def _last_line(heard: IO[bytes]) -> str:
    size = heard.seek(0, os.SEEK_END)
    heard.seek(max(0, size - 4000))
    lines = heard.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last[:_MAX_TEXT]}" if last else ""


def _error(answer: dict[str, str], purpose: str) -> TightshipError:
    kind = getattr(errors, answer["error"], None) if answer["error"] in errors.__all__ else None
    if isinstance(kind, type) and issubclass(kind, TightshipError):
        return kind(answer["message"])
    return InvalidModel(f"{purpose}: {answer['message']}")
