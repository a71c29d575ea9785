"""What every request to a registry keeps to, whoever makes it: time limits, small answers, no redirect unseen.

Imported inside functions only: requests comes with the extra `registry`.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from tightship.errors import RegistryError

__all__ = ["MAX_ANSWER", "GuardedSession", "Interrupted", "Response", "origin", "pieces"]

MAX_ANSWER = 4 << 20
"""Bytes of an answer that is no blob; the distribution specification allows manifests of 4 MiB."""

CONNECT_S = 10.0
ANSWER_S = 60.0
"""How long a registry may take to begin an answer, to go on with one, and to finish a small one."""

PIECE = 1 << 20
STALL_S = 30.0
STALL_BYTES = 64 << 10
"""A blob that brings fewer bytes than this in so many seconds is given up: it can be resumed."""

Response = requests.Response


class Interrupted(Exception):
    """The connection broke, or brings nothing more; what came can be continued."""


class GuardedSession(requests.Session):
    """The session under the ORAS client and its authentication.

    `plain_host` is the host that may be spoken to without TLS; every other must be https. An answer that is not
    streamed is read here, up to `MAX_ANSWER`. Redirects are left to the caller, who knows what may go where.
    """

    def __init__(self, plain_host: str = "") -> None:
        super().__init__()
        self.plain_host = plain_host
        self.patience_s = ANSWER_S
        self.refused: Response | None = None
        self.auth = _as_it_is
        self.headers["Accept-Encoding"] = "identity"
        self.mount("http://", _Adapter())
        self.mount("https://", _Adapter())

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> Response:
        """Send within the limits above. Raises `RegistryError`, and what requests raises where a connection fails."""
        self._check_scheme(request.url or "")
        streamed = kwargs.get("stream", False)
        kwargs.update(stream=True, allow_redirects=False, timeout=(CONNECT_S, self.patience_s))
        response = super().send(request, **kwargs)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            response.close()
            raise RegistryError(
                f"{_shown(request.url)}: the answer is compressed ({encoding[:40]!r}), unasked; refused"
            )
        if not streamed:
            response.raw = io.BytesIO(_read_small(response))
        if response.status_code in (401, 403):
            self.refused = response
        return response

    def forget_refusal(self) -> None:
        """Before a request whose refusal, of status 401 or 403, is to be found in `refused`."""
        self.refused = None

    def get_redirect_target(self, resp: Response) -> None:
        """Nothing is followed by itself."""
        return

    def _check_scheme(self, url: str) -> None:
        parts = urlsplit(url)
        plain = parts.scheme == "http" and parts.hostname == self.plain_host
        if parts.scheme != "https" and not plain:
            raise RegistryError(
                f"{_shown(url)}: expected https; for a registry of your own without TLS give --insecure, which holds "
                "for the registry's host alone"
            )


def pieces(response: Response, size: int) -> Iterator[bytes]:
    """Yield at most `size` bytes of a streamed body as they come, never more than 1 MiB at once.

    Raises `Interrupted` where the body ends early, breaks or trickles.
    """
    left, since, got = size, time.monotonic(), 0
    while left:
        try:
            piece = response.raw.read1(min(PIECE, left), decode_content=False)
        except (HTTPError, OSError, ValueError) as error:
            raise Interrupted(str(error)[:200]) from error
        if not piece:
            raise Interrupted(f"the registry ended the answer {left} bytes early")
        left, got = left - len(piece), got + len(piece)
        yield piece
        if time.monotonic() - since > STALL_S:
            if got < STALL_BYTES:
                raise Interrupted(f"only {got} bytes came in {STALL_S:.0f} s")
            since, got = time.monotonic(), 0


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what decides who may see credentials."""
    parts = urlsplit(url)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        port = -1
    return parts.scheme, (parts.hostname or "").lower(), port


def _read_small(response: Response) -> bytes:
    if response.request.method == "HEAD":
        response.close()
        return b""
    until, found = time.monotonic() + ANSWER_S, bytearray()
    while piece := response.raw.read1(PIECE, decode_content=False):
        found += piece
        if len(found) > MAX_ANSWER or time.monotonic() > until:
            response.close()
            raise RegistryError(
                f"{_shown(response.url)}: the answer is larger than {MAX_ANSWER >> 20} MiB or took longer than "
                f"{ANSWER_S:.0f} s; a registry's answers are small"
            )
    return bytes(found)


def _shown(url: str | None) -> str:
    """A URL without its query, which may hold a capability."""
    return (url or "").partition("?")[0][:200]


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from adding what ~/.netrc has for any host that a registry redirects to."""
    return request


class _Watched:
    """Hangs up where the head of an answer takes too long in all: a timeout of the socket holds for each byte alone."""

    def getresponse(self) -> Any:
        watchdog = threading.Timer(float(self.timeout or ANSWER_S), self._hang_up)  # type: ignore[attr-defined]
        watchdog.daemon = True
        watchdog.start()
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            watchdog.cancel()

    def _hang_up(self) -> None:
        import contextlib
        import socket

        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]


class _Connection(_Watched, HTTPConnection):
    pass


class _TLSConnection(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
