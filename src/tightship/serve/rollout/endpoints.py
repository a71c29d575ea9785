"""Rollouts over HTTP, for who has an administrator's key: what `tightship rollout` and the console ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tightship.serve.access import ADMIN, Caller
from tightship.serve.bodies import read_body
from tightship.serve.deployment import Deployment
from tightship.serve.failures import BadRequest, NoSuchModel
from tightship.serve.guarding import guarded
from tightship.serve.rollout.records import Rollout
from tightship.serve.rollout.status import Order, Reason, Status, history, status_of
from tightship.serve.service import Service
from tightship.serve.uploads import is_upload, uploaded

__all__ = ["routes"]

MAX_BODY_BYTES = 1 << 16
MAX_ROWS = 1000
VERBS = ("promote", "abort", "rollback")

Read = TypeVar("Read")


def routes() -> list[BaseRoute]:
    """Return the routes below /admin."""
    return [
        Route("/admin/rollouts", guarded(_list, ADMIN), methods=["GET"]),
        Route("/admin/rollouts", guarded(_start, ADMIN), methods=["POST"]),
        Route("/admin/rollouts/{number:int}", guarded(_one, ADMIN), methods=["GET"]),
        Route("/admin/rollouts/{model}/{verb}", guarded(_end, ADMIN), methods=["POST"]),
        Route("/admin/journal", guarded(_journal, ADMIN), methods=["GET"]),
    ]


async def _list(service: Service, request: Request, caller: Caller) -> Response:
    """Those of `?model=`, or of all, the newest first; `?running=true` only those that run."""
    deployment, model, limit = _deployment(service), request.query_params.get("model", ""), _limit(request)
    running = request.query_params.get("running", "") == "true"

    def answer() -> list[Status]:
        found = history(deployment.rollouts, model, limit)
        return [status_of(deployment.rollouts, one) for one in found if not (running and one.ended)]

    return _json({"rollouts": await asyncio.to_thread(answer)})


async def _one(service: Service, request: Request, caller: Caller) -> Response:
    deployment, number = _deployment(service), request.path_params["number"]

    def answer() -> Status:
        found = deployment.rollouts.find(number) if number < 1 << 62 else None
        if found is None:
            raise NoSuchModel(f"there is no rollout {number}; GET /admin/rollouts lists them")
        return status_of(deployment.rollouts, found)

    return _json(await asyncio.to_thread(answer))


async def _start(service: Service, request: Request, caller: Caller) -> Response:
    """The body is an `Order`; or it is the package, and the order is the query's `order`."""
    deployment = _deployment(service)
    if is_upload(request):
        order = _decoded(request.query_params.get("order", "").encode(), Order)
        plan = order.plan()  # before the package, which may be large
        blocks = uploaded(request, asyncio.get_running_loop(), service.settings.limits.max_upload_bytes)
        stored = await asyncio.to_thread(deployment.packages.receive, blocks, order.path or f"upload by {caller.name}")
    else:
        order = _decoded(await read_body(dict(request.headers.raw), request.receive, MAX_BODY_BYTES), Order)
        plan = order.plan()
        if not order.path:
            raise BadRequest("name the package: `path` on the server's machine, or send its bytes as the body")
        stored = await asyncio.to_thread(deployment.packages.accept, order.path)

    def answer() -> Status:
        started = deployment.rollouts.start(order.model, stored, plan, caller.name, order.why)
        deployment.tidy()
        return status_of(deployment.rollouts, started)

    return _json(await asyncio.to_thread(answer), 201)


async def _end(service: Service, request: Request, caller: Caller) -> Response:
    deployment, model, verb = _deployment(service), request.path_params["model"], request.path_params["verb"]
    body = await read_body(dict(request.headers.raw), request.receive, MAX_BODY_BYTES)
    why = _decoded(body or b"{}", Reason).why
    if verb not in VERBS:
        raise NoSuchModel(f"a rollout cannot be told to {verb[:80]!r}; it knows {', '.join(VERBS)}")
    act: Callable[[str, str, str], Rollout] = getattr(deployment.rollouts, verb)

    def answer() -> Status:
        return status_of(deployment.rollouts, act(model, caller.name, why))

    return _json(await asyncio.to_thread(answer))


async def _journal(service: Service, request: Request, caller: Caller) -> Response:
    deployment, model = _deployment(service), request.query_params.get("model", "")
    entries = await asyncio.to_thread(deployment.state.journal, model, _limit(request))
    return _json({"journal": entries})


def _deployment(service: Service) -> Deployment:
    if service.deployment is None:
        raise BadRequest("this server has no state, and so no rollouts")
    return service.deployment


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "50")
    if not text.isascii() or not text.isdigit() or len(text) > 6 or not 0 < int(text) <= MAX_ROWS:
        raise BadRequest(f"limit is {text[:20]!r}; expected 1 to {MAX_ROWS}")
    return int(text)


def _decoded(data: bytes, kind: type[Read]) -> Read:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"this is not the JSON that is expected here: {str(error)[:200]}") from error


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
