"""A server's log: lines for people, or JSON lines for machines; one per request that failed, at debug one per request.

Request ids come in by `X-Request-Id` and go out by it; one is made where none came or where it could forge a line.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import sys
import time
from typing import IO, Any, Literal

__all__ = ["FORMS", "LEVELS", "LOGGER", "Form", "RequestLog", "configure", "request_id"]

Form = Literal["human", "json"]
FORMS: tuple[Form, ...] = ("human", "json")
LEVELS = ("debug", "info", "warning", "error")
LOGGER = logging.getLogger("tightship.serve")
FAILURE_LINES_PER_S = 50

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_COUNTER = itertools.count(1)
_PREFIX: dict[int, str] = {}


def request_id(given: bytes | str | None) -> str:
    """Return the caller's id where it is 1 to 128 harmless characters, else a new one, unique over workers."""
    if given:
        text = given.decode("latin-1") if isinstance(given, bytes) else given
        if _SAFE_ID.fullmatch(text):
            return text
    pid = os.getpid()
    prefix = _PREFIX.get(pid) or _PREFIX.setdefault(pid, os.urandom(6).hex())
    return f"{prefix}-{next(_COUNTER):x}"


def configure(level: str, form: Form, stream: IO[str] | None = None) -> None:
    """Send the server's log, uvicorn's and gRPC's included, to `stream` (standard error) in this form."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines() if form == "json" else _HumanLines())
    for name in ("tightship.serve", "uvicorn", "uvicorn.error", "grpc"):
        logger = logging.getLogger(name)
        logger.handlers = [] if name == "uvicorn.error" else [handler]
        logger.propagate = name == "uvicorn.error"
    LOGGER.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.INFO if level == "debug" else logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    logging.getLogger("grpc").setLevel(logging.ERROR)


class RequestLog:
    """One line per failed request, at most 50 of them a second in each worker; at debug one line per request."""

    def __init__(self, logger: logging.Logger = LOGGER) -> None:
        self._logger = logger
        self.every = logger.isEnabledFor(logging.DEBUG)
        """Whether requests that went well are to be told to `add` too."""
        self._second = 0
        self._lines = 0

    def add(
        self, status: str, seconds: float, *, failure: str = "", server_fault: bool = False, **fields: str | int
    ) -> None:
        """Write the line: `status` is HTTP's number or gRPC's name; fields are request_id, model, version, ..."""
        level = logging.DEBUG if not failure else logging.ERROR if server_fault else logging.WARNING
        if failure and not self._may_write():
            return
        details = {"status": status, "duration_ms": round(seconds * 1e3, 3), **fields}
        self._logger.log(level, "%s", failure or "answered", extra={"details": details})

    def _may_write(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            if (left_out := self._lines - FAILURE_LINES_PER_S) > 0:
                self._logger.warning("%d more failures were not written", left_out)
            self._second, self._lines = second, 0
        self._lines += 1
        return self._lines <= FAILURE_LINES_PER_S


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _moment(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage().rstrip(),
            **_details(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # ASCII: some readers end a line at U+2028 too


class _HumanLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        details = " ".join(f"{name}={value}" for name, value in _details(record).items())
        line = f"{_moment(record.created)} {record.levelname.lower():7} {record.getMessage().rstrip()}"
        line = _one_line(f"{line}  {details}" if details else line)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _details(record: logging.LogRecord) -> dict[str, Any]:
    found = getattr(record, "details", {})
    return found if isinstance(found, dict) else {}


def _moment(seconds: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1e3):03d}Z"


def _one_line(text: str) -> str:
    """Escape what could forge a line or steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
