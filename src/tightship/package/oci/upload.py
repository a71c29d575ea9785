"""A blob goes to a registry: not at all where it is there, whole where it is small, in chunks where it is large.

Where an upload stands is kept in the user's cache folder, so that a push that was killed goes on from there if the
registry still knows the upload (its status says how much it has).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from tightship.core import atomic
from tightship.core.progress import Advance
from tightship.errors import RegistryError
from tightship.package.modelpack import Descriptor
from tightship.package.oci.connection import Connection

if TYPE_CHECKING:
    from tightship.package.oci.transport import Response

__all__ = ["CHUNK", "Uploaded", "upload_bytes", "upload_file"]

CHUNK = 16 << 20
MAX_CHUNK = 256 << 20
BYTES_PER_S = 20e6
"""So fast at least a registry digests what it has received: how long its last answer may take."""

_RECEIVED = re.compile(r"(?:bytes=)?0-(\d{1,20})")


@dataclass(frozen=True)
class Uploaded:
    """`sent_bytes` went over the network; the rest of the blob was in the registry already."""

    sent_bytes: int


class _Refused(RegistryError):
    """An upload in chunks cannot go on; one in a single request may."""


@dataclass(frozen=True)
class _Session:
    """An upload that the registry has begun: where it goes on, and how much it has received."""

    location: str
    offset: int
    chunk: int = CHUNK


def upload_bytes(connection: Connection, data: bytes, blob: Descriptor) -> None:
    """Upload a small blob unless it is there. Raises `RegistryError`."""
    if not _is_there(connection, blob):
        _close(connection, _begin(connection), blob, data)


def upload_file(connection: Connection, file: BinaryIO, blob: Descriptor, state: Path, advance: Advance) -> Uploaded:
    """Upload an open file, going on with an earlier upload of it where there is one. Raises `RegistryError`.

    `state` is the folder that keeps where uploads stand.
    """
    if _is_there(connection, blob):
        advance(blob.size)
        return Uploaded(0)
    memory = _Memory(state, connection, blob)
    session = memory.recall()
    try:
        return _send(connection, session or _begin(connection), file, blob, memory, advance)
    except _Refused:
        memory.forget()
    return _send_whole(connection, file, blob)


def _send(
    connection: Connection, session: _Session, file: BinaryIO, blob: Descriptor, memory: _Memory, advance: Advance
) -> Uploaded:
    first = session.offset
    advance(first)
    file.seek(first)
    while blob.size - session.offset > session.chunk:
        chunk = _read(connection, file, session.chunk)
        session = _continue(connection, session, chunk)
        memory.keep(session)
        advance(len(chunk))
    rest = _read(connection, file, blob.size - session.offset)
    _close(connection, session, blob, rest)
    advance(len(rest))
    memory.forget()
    return Uploaded(blob.size - first)


def _read(connection: Connection, file: BinaryIO, n_bytes: int) -> bytes:
    found = file.read(n_bytes)
    if len(found) != n_bytes:
        raise RegistryError(f"{connection.reference}: the package became shorter while it was pushed; push it again")
    return found


def _send_whole(connection: Connection, file: BinaryIO, blob: Descriptor) -> Uploaded:
    """In one request, streamed: every registry takes that, some take nothing else."""
    file.seek(0)
    _close(connection, _begin(connection), blob, file)
    return Uploaded(blob.size)


def _is_there(connection: Connection, blob: Descriptor) -> bool:
    response = connection.send("HEAD", connection.url("blobs", blob.digest))
    if response.status_code in (401, 403):
        raise connection.refusal(response, "looking for the blob")
    length = response.headers.get("Content-Length", str(blob.size))
    return response.status_code == 200 and length == str(blob.size)


def _begin(connection: Connection) -> _Session:
    response = connection.send("POST", connection.url("blobs", "uploads") + "/", headers={"Content-Length": "0"})
    if response.status_code != 202:
        raise connection.refusal(response, "beginning an upload")
    smallest = response.headers.get("OCI-Chunk-Min-Length", "0")
    wanted = int(smallest) if smallest.isdecimal() and len(smallest) < 20 else 0
    if wanted > MAX_CHUNK:
        raise RegistryError(f"{connection.reference}: the registry wants chunks of {wanted} bytes; refused")
    return _Session(connection.location(response), 0, max(CHUNK, wanted))


def _continue(connection: Connection, session: _Session, chunk: bytes) -> _Session:
    end = session.offset + len(chunk)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(chunk)),
        "Content-Range": f"{session.offset}-{end - 1}",
    }
    response = connection.send("PATCH", session.location, chunk, headers)
    if response.status_code in (401, 403):
        raise connection.refusal(response, "uploading")
    if response.status_code != 202 or _received(response, end) != end:
        raise _Refused(f"{connection.reference}: bytes {headers['Content-Range']} were not taken")
    return _Session(connection.location(response), end, session.chunk)


def _close(connection: Connection, session: _Session, blob: Descriptor, rest: bytes | BinaryIO) -> None:
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size - session.offset)}
    if session.offset:
        headers["Content-Range"] = f"{session.offset}-{blob.size - 1}"
    location = _with_digest(session.location, blob.digest)
    response = connection.send("PUT", location, rest, headers, patience_s=60 + blob.size / BYTES_PER_S)
    if response.status_code != 201 and session.offset:
        raise _Refused(f"{connection.reference}: the registry does not close the upload")
    if response.status_code != 201:
        raise connection.refusal(response, f"uploading blob {blob.digest}")
    told = response.headers.get("Docker-Content-Digest", blob.digest)
    if told != blob.digest:
        raise RegistryError(f"{connection.reference}: blob {blob.digest} was sent, the registry stored {told[:80]!r}")


def _received(response: Response, otherwise: int) -> int:
    """How many bytes a registry says that it has, or `otherwise` where it says nothing."""
    text = response.headers.get("Range")
    if text is None:
        return otherwise
    found = _RECEIVED.fullmatch(text)
    return int(found[1]) + 1 if found else -1


def _with_digest(location: str, digest: str) -> str:
    parts = urlsplit(location)
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name != "digest"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("digest", digest)])))


class _Memory:
    """Where an upload stands, kept in a file of its own under a key of the repository and the blob."""

    def __init__(self, folder: Path, connection: Connection, blob: Descriptor) -> None:
        key = f"{connection.base}/{connection.reference.repository}@{blob.digest}"
        self._path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        self._connection, self._blob = connection, blob

    def keep(self, session: _Session) -> None:
        with atomic.writing(self._path) as temporary:
            temporary.touch(mode=0o600)  # the location may be all that is needed to write to the upload
            temporary.write_text(json.dumps({"location": session.location, "chunk": session.chunk}))

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def recall(self) -> _Session | None:
        """Ask the registry where the upload stands; None where there is none, or the registry has dropped it."""
        try:
            kept = json.loads(self._path.read_text())
            location, chunk = str(kept["location"]), int(kept["chunk"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with contextlib.suppress(RegistryError):
            response = self._connection.send("GET", location)
            offset = _received(response, -1)
            if response.status_code == 204 and 0 < offset <= self._blob.size:
                return _Session(self._connection.location(response), offset, min(max(CHUNK, chunk), MAX_CHUNK))
        self.forget()
        return None
