"""A blob comes into a partial file that the next try continues; it gets its name once its digest was seen to be right.

The partial lies beside the output and has the digest in its name: `.model.ship.<64 hex>.partial`.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tightship.core import atomic
from tightship.core.progress import Advance
from tightship.errors import OutputError, RegistryError
from tightship.package.modelpack import Descriptor
from tightship.package.oci.connection import Connection

if TYPE_CHECKING:
    from tightship.package.oci.transport import Response

__all__ = ["fetch", "partial_path"]

TRIES = 4
"""So often a connection may break after fewer than `FAIR` bytes before the pull gives up."""

FAIR = 64 << 10
PAUSE_S = 1.0
BLOCK = 1 << 20
_PARTIAL = re.compile(r"\.[0-9a-f]{64}\.partial$")
_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20}|\*)")


def partial_path(output: Path, digest: str) -> Path:
    """Where what has come of a blob lies until it is whole."""
    return output.with_name(f".{output.name}.{digest.partition(':')[2]}.partial")


def fetch(connection: Connection, blob: Descriptor, output: Path, advance: Advance) -> int:
    """Bring the blob to `output`, which appears whole or not at all; return how many bytes were there already.

    Raises `RegistryError` where the registry sends another size or other bytes (nothing is left behind) or fails on
    the way (the partial file is kept), and `OutputError` where the disk has no room.
    """
    partial = partial_path(output, blob.digest)
    with _held(partial) as file:
        try:
            _check_room(partial, blob.size - os.fstat(file.fileno()).st_size)
            resumed = _Arrival(connection, blob, file, advance).complete()
        except BaseException:
            if not os.fstat(file.fileno()).st_size:
                partial.unlink(missing_ok=True)
            raise
        with _write_errors(partial):
            os.fsync(file.fileno())
        with atomic.writing(output) as temporary:
            partial.replace(temporary)
    _forget_others(output)
    return resumed


class _Arrival:
    """A blob on its way: the file so far, its running digest, and the rest that is still to be asked for."""

    def __init__(self, connection: Connection, blob: Descriptor, file: IO[bytes], advance: Advance) -> None:
        self._connection, self._blob, self._file, self._advance = connection, blob, file, advance
        self._what = f"{connection.reference}: blob {blob.digest}"
        self._have, self._digest = 0, hashlib.sha256()
        self._take_up()

    def complete(self) -> int:
        """Ask until all is there and right; return the bytes that were there at the beginning.

        What was resumed and is wrong is fetched once more: the bytes of another day may be what is wrong with it.
        """
        resumed = self._have
        self._receive_all()
        if resumed and not self._is_right():
            self._start_over()
            self._receive_all()
        if not self._is_right():
            found = self._digest.hexdigest()
            self._start_over()
            raise RegistryError(f"{self._what}: what came is something else, sha256:{found}; nothing was written")
        return resumed

    def _take_up(self) -> None:
        """Read what a pull that was killed has left; of a file that is too long nothing is kept."""
        if os.fstat(self._file.fileno()).st_size > self._blob.size:
            self._start_over()
        while block := self._file.read(BLOCK):
            self._digest.update(block)
            self._have += len(block)
        self._advance(self._have)

    def _receive_all(self) -> None:
        from tightship.package.oci.transport import Interrupted

        best, idle = self._have, 0
        while self._have < self._blob.size:
            try:
                self._receive()
            except Interrupted as error:
                idle = 0 if self._have >= best + FAIR else idle + 1
                best = max(best, self._have)
                if idle >= TRIES:
                    raise RegistryError(
                        f"{self._what}: {self._have} of {self._blob.size} bytes came, then: {error}; the same command "
                        "continues from there"
                    ) from error
                time.sleep(PAUSE_S * idle)

    def _receive(self) -> None:
        from tightship.package.oci.transport import pieces

        with self._answer() as response:
            self._check_length(response)
            for piece in pieces(response, self._blob.size - self._have):
                self._write(piece)
                self._digest.update(piece)
                self._have += len(piece)
                self._advance(len(piece))

    def _answer(self) -> Response:
        """Ask for the rest; where the registry knows no ranges, or not this one, take the whole from its beginning."""
        url = self._connection.url("blobs", self._blob.digest)
        headers = {"Range": f"bytes={self._have}-{self._blob.size - 1}"} if self._have else {}
        response = self._connection.get(url, headers, stream=True)
        if self._have and response.status_code == 416:
            response.close()
            self._start_over()
            response = self._connection.get(url, stream=True)
        if self._have and response.status_code == 200:
            self._start_over()
        if response.status_code not in (200, 206):
            raise self._connection.refusal(response, f"blob {self._blob.digest}")
        return response

    def _check_length(self, response: Response) -> None:
        wanted = self._blob.size - self._have
        length = response.headers.get("Content-Length", str(wanted))
        if length != str(wanted):
            raise RegistryError(f"{self._what}: expected {wanted} bytes, the registry announces {length[:40]}")
        if response.status_code == 206:
            found = response.headers.get("Content-Range", "")
            parts = _RANGE.fullmatch(found)
            if parts is None or int(parts[1]) != self._have or parts[3] not in ("*", str(self._blob.size)):
                raise RegistryError(
                    f"{self._what}: expected the bytes from {self._have} on, of {self._blob.size}; the registry "
                    f"sends {found[:80]!r}"
                )

    def _write(self, piece: bytes) -> None:
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise OutputError(f"{self._what}: cannot write what came: {error.strerror or error}") from error

    def _start_over(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._advance(-self._have)
        self._have, self._digest = 0, hashlib.sha256()

    def _is_right(self) -> bool:
        return f"sha256:{self._digest.hexdigest()}" == self._blob.digest


@contextmanager
def _held(partial: Path) -> Iterator[IO[bytes]]:
    """Open the partial file for this process alone. Raises `OutputError` where another pull is at it."""
    with _write_errors(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(partial)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        yield file


def _locked(partial: Path) -> int:
    while True:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, partial):  # and not one that another pull has just moved to its place
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(f"{partial}: another pull is writing it; wait for its end") from None
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _check_room(partial: Path, wanted: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if wanted > free:
        raise OutputError(f"{partial.parent}: {wanted} bytes are to come, {free} are free; make room or go elsewhere")


def _forget_others(output: Path) -> None:
    """Remove what is left of other packages that were to lie at the same place, unless a pull is at work on it."""
    for other in output.parent.glob(f".{glob.escape(output.name)}.*.partial"):
        if _PARTIAL.search(other.name):
            with contextlib.suppress(OSError, OutputError):
                descriptor = _locked(other)
                other.unlink()
                os.close(descriptor)
