"""The console's routes. The page is open to everybody; what it shows asks for a key wherever inference does."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tightship.serve.access import INFER, Caller
from tightship.serve.bodies import read_body
from tightship.serve.failures import NoSuchModel
from tightship.serve.guarding import guarded
from tightship.serve.overview import Overviews
from tightship.serve.service import Service

__all__ = ["routes"]

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_FORM_BYTES = 4096

PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob:; media-src blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""A report comes with a package: it may draw, and nothing else."""


def routes() -> list[BaseRoute]:
    """Return the routes of the console."""
    return [
        Route("/", guarded(_page)),
        Route("/console/overview", guarded(_overview, INFER)),
        Route("/console/report/{model}/{version}", guarded(_report, INFER)),
        Route("/console/report/{model}/{version}", guarded(_report_in_frame), methods=["POST"]),
        Route("/console/{name}", guarded(_file)),
    ]


async def _page(service: Service, request: Request, caller: Caller) -> Response:
    return _static(request, "index.html")


async def _file(service: Service, request: Request, caller: Caller) -> Response:
    return _static(request, request.path_params["name"])


async def _overview(service: Service, request: Request, caller: Caller) -> Response:
    found = await asyncio.to_thread(_overviews(request, service).overview)
    return Response(msgspec.json.encode(found), media_type="application/json", headers={"cache-control": "no-store"})


async def _report(service: Service, request: Request, caller: Caller) -> Response:
    model, version = request.path_params["model"], request.path_params["version"]
    found = await asyncio.to_thread(_overviews(request, service).report, model, version)
    if found is None:
        raise NoSuchModel(
            f"version {version[:80]} of {model} has no report: optimize writes one, and pack takes it along"
        )
    return Response(found, media_type="text/html; charset=utf-8", headers=_headers(REPORT_POLICY))


async def _report_in_frame(service: Service, request: Request, caller: Caller) -> Response:
    """As above, for a form whose answer is shown in a frame: it cannot send headers, and brings the key in its body."""
    form = await read_body(dict(request.headers.raw), request.receive, MAX_FORM_BYTES)
    key = parse_qs(form.decode("latin-1")).get("key", [""])[0]
    if service.access is not None:
        caller = service.access.check(key.encode("latin-1", "replace") or None, INFER)
    return await _report(service, request, caller)


def _overviews(request: Request, service: Service) -> Overviews:
    """What this worker remembers of packages, from one look to the next."""
    state = request.app.state
    if not hasattr(state, "overviews"):
        state.overviews = Overviews(service)
    found: Overviews = state.overviews
    return found


def _static(request: Request, name: str) -> Response:
    """A file of the page, unless the browser has just that."""
    found = _files().get(name)
    if found is None:
        raise NoSuchModel(f"there is no {request.url.path[:80]} here; the console is at /")
    content, media_type, tag = found
    headers = {**_headers(PAGE_POLICY), "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Content, type and tag of every file of the page, by name."""
    found = {}
    for path in STATIC.iterdir():
        if path.suffix in TYPES:
            content = path.read_bytes()
            found[path.name] = (content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


def _headers(policy: str) -> dict[str, str]:
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",  # without one, forms of the page would be sent with `Origin: null`
        "cache-control": "no-cache",
    }
