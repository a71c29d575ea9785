"""Packages that come as the body of a request: block by block to the disk, whatever their size."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from tightship.serve.failures import BadRequest, TooLarge

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["PACKAGE_TYPES", "is_upload", "uploaded"]

PACKAGE_TYPES = ("application/octet-stream", "application/zip")


def is_upload(request: Request) -> bool:
    """Whether the body says that it is a package."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower() in PACKAGE_TYPES


def uploaded(request: Request, loop: asyncio.AbstractEventLoop, max_bytes: int) -> Iterator[bytes]:
    """Yield the body's blocks as they come; for a thread that is not the loop's. Raises `TooLarge` or `BadRequest`."""
    total, more = 0, True
    while more:
        message = asyncio.run_coroutine_threadsafe(_next(request), loop).result()
        if message["type"] == "http.disconnect":
            raise BadRequest("the upload broke off")
        block = message.get("body", b"")
        more = message.get("more_body", False)
        total += len(block)
        if total > max_bytes:
            raise TooLarge(f"a package may have {max_bytes:,} bytes here (--max-upload)")
        yield block


async def _next(request: Request) -> MutableMapping[str, Any]:
    return await request.receive()
