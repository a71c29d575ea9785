"""Endpoints that need a key for what they do, and answer every failure as JSON; Starlette's routes are made of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from tightship.serve.access import ANYBODY, Caller
from tightship.serve.application import REQUEST_ID, failure_answer
from tightship.serve.logs import request_id
from tightship.serve.service import Service

__all__ = ["Answer", "Endpoint", "guarded", "service_of"]

Answer = Callable[[Service, Request, Caller], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def service_of(request: Request) -> Service:
    """Return the parts of the worker that answers this request."""
    service: Service = request.app.state.service
    return service


def guarded(answer: Answer, scope: str = "", to_all: bool = False) -> Endpoint:
    """Return an endpoint that asks for a key of this scope (`INFER`, `ADMIN`, or empty for none) before it answers.

    `to_all`: it answers under whatever name, also who asks from another site's page.
    """

    async def endpoint(request: Request) -> Response:
        started = time.perf_counter()
        service = service_of(request)
        try:
            caller = ANYBODY
            if service.hosts is not None and not to_all:
                named = dict(request.headers.raw)
                service.hosts.check(named.get(b"host"), named.get(b"origin"))
            if scope and service.access is not None:
                headers = request.headers
                credential = headers.get("authorization") or headers.get("x-api-key")
                caller = service.access.check(None if credential is None else credential.encode("latin-1"), scope)
            return await answer(service, request, caller)
        except Exception as error:
            return _failed(service, request, error, time.perf_counter() - started)

    return endpoint


def _failed(service: Service, request: Request, error: Exception, seconds: float) -> Response:
    given = request.headers.get(REQUEST_ID.decode())
    number = request_id(given)
    status, body, extra = failure_answer(error, number)
    service.metrics.refuse(type(error).__name__)
    service.log.add(
        str(status),
        seconds,
        failure=f"{type(error).__name__}: {error}",
        server_fault=status >= 500,
        request_id=number,
        path=request.url.path[:200],
    )
    headers = {name.decode(): value.decode() for name, value in extra} | {REQUEST_ID.decode(): number}
    return Response(body, status, headers, "application/json")
