"""Where keys, passphrases and PINs are kept: a file for its owner alone, the environment, or a file descriptor."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tightship.errors import UsageError

__all__ = ["MAX_BYTES", "load_passphrase", "read_file", "read_secret"]

MAX_BYTES = 64 << 10
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def load_passphrase(where: str | Path) -> bytes:
    """Read a passphrase from a path, `env:NAME` or `fd:N`; one newline at its end is not part of it."""
    name, data = read_secret(where, "a passphrase")
    passphrase = data.removesuffix(b"\n").removesuffix(b"\r")
    if not passphrase:
        raise UsageError(f"{name} is empty; expected a passphrase")
    return passphrase


def read_secret(where: str | Path, what: str) -> tuple[str, bytes]:
    """Read what is kept at a path, in `env:NAME` or on `fd:N`; return how to call the place, and the bytes.

    Raises `UsageError` where nothing is there, or where a file can be read or written by others, as ssh does: a secret
    that others could read may not be one any more.
    """
    place, _, rest = str(where).partition(":")
    if place == "env" and rest:
        if rest not in os.environ:
            raise UsageError(f"the environment has no {rest}; expected {what} in it")
        return f"${rest}", os.environ[rest].encode("utf-8", "surrogateescape")
    if place == "fd" and rest:
        return f"fd:{rest}", _read_descriptor(rest, what)
    return str(where), read_file(Path(where), what, secret=True)


def read_file(path: Path, what: str, secret: bool) -> bytes:
    """Read a file of at most 64 KiB; a secret one must be open to its owner alone."""
    try:
        with path.open("rb") as file:
            if secret and os.name == "posix":
                _check_mode(path, os.fstat(file.fileno()))
            return _bounded(file.read(MAX_BYTES + 1), str(path), what)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}; expected {what} there") from error


def _read_descriptor(number: str, what: str) -> bytes:
    try:
        with os.fdopen(int(number), "rb", closefd=False) as file:
            return _bounded(file.read(MAX_BYTES + 1), f"fd:{number}", what)
    except (ValueError, OSError) as error:
        raise UsageError(f"fd:{number} cannot be read: {error}; expected {what} on an open file descriptor") from error


def _check_mode(path: Path, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode) and status.st_mode & OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise UsageError(f"{path} is open to other users (mode {mode:04o}, expected 0600); run: chmod 600 {path}")


def _bounded(data: bytes, name: str, what: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name} is longer than {MAX_BYTES} bytes; expected {what}")
    return data
