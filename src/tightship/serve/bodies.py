"""Reading a request's body within bounds: its length, and what it unpacks to."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tightship.serve.failures import BadRequest, TooLarge, TooSlow

__all__ = ["ClientGone", "Receive", "check_announced", "read_body"]

Receive = Callable[[], Awaitable[Any]]

WINDOW_BITS = {b"gzip": 31, b"deflate": 15}


class ClientGone(Exception):
    """The client has vanished; nobody waits for an answer."""


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, max_bytes: int) -> bytes:
    """Return a body of at most `max_bytes`, unpacked where it is packed (gzip, deflate).

    Raises `TooLarge`, `TooSlow` where the connection's patience ended, `BadRequest` for an unknown or damaged packing,
    and `ClientGone`.
    """
    check_announced(headers, max_bytes)
    try:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await _rest(body, receive, max_bytes)
    except asyncio.CancelledError as error:  # by `Connection`: the client was too slow, or has gone
        raise TooSlow("the body did not arrive in time") from error
    if len(body) > max_bytes:
        raise TooLarge(f"the body is longer than the {max_bytes:,} bytes that are allowed (--max-body)")
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else _unpacked(body, encoding, max_bytes)


def check_announced(headers: Mapping[bytes, bytes], max_bytes: int) -> None:
    """Raise `TooLarge` where the headers announce a body longer than allowed."""
    announced = headers.get(b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > max_bytes:
        raise TooLarge(f"the body has {int(announced):,} bytes; {max_bytes:,} are allowed (--max-body)")


async def _rest(first: bytes, receive: Receive, max_bytes: int) -> bytes:
    chunks, total, more = [first], len(first), True
    while more and total <= max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        chunks.append(chunk)
        total += len(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _unpacked(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in (b"identity", b""):
        return body
    if encoding not in WINDOW_BITS:
        raise BadRequest(f"the body is packed by {encoding[:40]!r}; expected gzip, deflate or nothing")
    unpacking = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        whole = unpacking.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not the {encoding.decode()} that it says: {error}") from error
    if len(whole) > max_bytes:
        raise TooLarge(f"the body unpacks to more than the {max_bytes:,} bytes that are allowed (--max-body)")
    if not unpacking.eof or unpacking.unused_data:
        raise BadRequest(f"the body is not one whole {encoding.decode()} stream")
    return whole
