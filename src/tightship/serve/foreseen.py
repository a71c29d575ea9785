"""Every exception as one of the failures that a request can end with."""

from __future__ import annotations

from tightship.errors import RolloutError, ServeError, StateError, TightshipError
from tightship.serve.failures import BadRequest, Conflict, NotReady, RequestFailure
from tightship.serve.logs import LOGGER, request_id

__all__ = ["foreseen"]


def foreseen(error: Exception, given_id: str | None) -> RequestFailure:
    """Return what the caller is told; an exception that nobody foresaw is told to the log alone."""
    if isinstance(error, RequestFailure):
        return error
    if isinstance(error, RolloutError):
        return Conflict(str(error))
    if isinstance(error, StateError):
        return NotReady(str(error))
    if isinstance(error, TightshipError) and not isinstance(error, ServeError):
        return BadRequest(str(error))  # the package or path that the call named cannot be used
    number = request_id(given_id)
    LOGGER.error("request %s failed in a way that nobody foresaw", number, exc_info=error)
    return RequestFailure(f"the server failed; its log says more under request id {number}")
