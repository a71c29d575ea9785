"""What a request may end with instead of an answer: one class each, with its HTTP status and its gRPC code.

ServeError
└── RequestFailure (500, INTERNAL)
    ├── BadRequest (400, INVALID_ARGUMENT)          the request is not what the protocol or the model takes
    ├── Unauthorised (401, UNAUTHENTICATED)         no key, or none that is known
    ├── Forbidden (403, PERMISSION_DENIED)          a key that may not do this
    ├── ForeignOrigin (403, PERMISSION_DENIED)      a browser sent it for a page of another site
    ├── NoSuchModel (404, NOT_FOUND)                no such model, version or address
    ├── TooSlow (408, DEADLINE_EXCEEDED)            the body did not arrive in time
    ├── Conflict (409, FAILED_PRECONDITION)         not in this state: a rollout is running, or none is
    ├── TooLarge (413, RESOURCE_EXHAUSTED)          the body is longer than allowed
    ├── Misdirected (421, FAILED_PRECONDITION)      it names a host that this server is not
    ├── Overloaded (429, RESOURCE_EXHAUSTED)        the queue is full, or a key is over its rate
    ├── ModelFailed (500, INTERNAL)                 the engine failed while running
    ├── NotReady (503, UNAVAILABLE)                 the model is being loaded, or the server is going down
    └── DeadlineExceeded (504, DEADLINE_EXCEEDED)   no answer in the time that the request gave
"""

from __future__ import annotations

import math
from typing import ClassVar

from tightship.errors import ServeError

__all__ = [
    "BadRequest",
    "Conflict",
    "DeadlineExceeded",
    "Forbidden",
    "ForeignOrigin",
    "Misdirected",
    "ModelFailed",
    "NoSuchModel",
    "NotReady",
    "Overloaded",
    "RequestFailure",
    "TooLarge",
    "TooSlow",
    "Unauthorised",
]


class RequestFailure(ServeError):
    """A request that is answered with an error. `grpc_code` is a name of `grpc.StatusCode`."""

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """HTTP headers that belong to this failure."""
        return ()


class BadRequest(RequestFailure):
    """The request is not what the protocol or the model takes."""

    http_status = 400
    grpc_code = "INVALID_ARGUMENT"


class Unauthorised(RequestFailure):
    """There is no key with it, or none that is known here."""

    http_status = 401
    grpc_code = "UNAUTHENTICATED"

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"www-authenticate", b"Bearer"),)


class Forbidden(RequestFailure):
    """Its key may not do this."""

    http_status = 403
    grpc_code = "PERMISSION_DENIED"


class ForeignOrigin(RequestFailure):
    """A browser sent it for a page of another site."""

    http_status = 403
    grpc_code = "PERMISSION_DENIED"


class NoSuchModel(RequestFailure):
    """There is no such model, version or address."""

    http_status = 404
    grpc_code = "NOT_FOUND"


class TooSlow(RequestFailure):
    """The body did not arrive in time."""

    http_status = 408
    grpc_code = "DEADLINE_EXCEEDED"


class Conflict(RequestFailure):
    """It cannot be done in the state that the model is in."""

    http_status = 409
    grpc_code = "FAILED_PRECONDITION"


class TooLarge(RequestFailure):
    """The body is longer than allowed."""

    http_status = 413
    grpc_code = "RESOURCE_EXHAUSTED"


class Misdirected(RequestFailure):
    """It names a host that this server is not known as."""

    http_status = 421
    grpc_code = "FAILED_PRECONDITION"


class Overloaded(RequestFailure):
    """Too many requests: the queue is full, or a key is over its rate. `retry_after_s` is when to try again."""

    http_status = 429
    grpc_code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"retry-after", str(max(1, math.ceil(self.retry_after_s))).encode()),)


class ModelFailed(RequestFailure):
    """The engine failed while running."""


class NotReady(RequestFailure):
    """The model is being loaded, or the server is going down."""

    http_status = 503
    grpc_code = "UNAVAILABLE"

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"retry-after", b"1"),)


class DeadlineExceeded(RequestFailure):
    """There was no answer in the time that the request gave."""

    http_status = 504
    grpc_code = "DEADLINE_EXCEEDED"
