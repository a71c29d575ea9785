"""All that is asked for less often than inference: health, metadata, the repository, metrics, the OpenAPI document,
rollouts and the console."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

import tightship
from tightship.core.specs import TensorSpec
from tightship.serve.access import ADMIN, INFER, Caller
from tightship.serve.application import error_body
from tightship.serve.bodies import read_body
from tightship.serve.failures import BadRequest, NoSuchModel, NotReady
from tightship.serve.guarding import Answer, guarded
from tightship.serve.loaded import LoadedModel
from tightship.serve.protocol.datatypes import datatype_of
from tightship.serve.service import Service
from tightship.serve.uploads import is_upload, uploaded

__all__ = ["MAX_JSON_BYTES", "endpoints", "read_json"]

EXTENSIONS = ["binary_tensor_data", "model_repository"]
MAX_JSON_BYTES = 1 << 20
MODEL = "/v2/models/{model}"
VERSION = "/v2/models/{model}/versions/{version}"
REPOSITORY = "/v2/repository"


class _Load(msgspec.Struct):
    class Parameters(msgspec.Struct):
        path: str = ""

    parameters: Parameters = msgspec.field(default_factory=Parameters)


class _Index(msgspec.Struct):
    ready: bool = False


def endpoints(service: Service) -> Starlette:
    """Return the application of one worker for all but inference."""
    routes: list[BaseRoute] = [
        _route("GET", "/v2/health/live", _live, to_all=True),
        _route("GET", "/v2/health/ready", _ready, to_all=True),
        _route("GET", "/v2", _server, INFER),
        _route("GET", "/v2/models", _models, INFER),
        _route("POST", f"{MODEL}/infer", _never, INFER),
        _route("POST", f"{VERSION}/infer", _never, INFER),
        _route("GET", f"{MODEL}/ready", _model_ready, to_all=True),
        _route("GET", f"{VERSION}/ready", _model_ready, to_all=True),
        _route("GET", MODEL, _metadata, INFER),
        _route("GET", VERSION, _metadata, INFER),
        _route("POST", f"{REPOSITORY}/index", _index, INFER),
        _route("POST", f"{REPOSITORY}/models/{{model}}/load", _load, ADMIN),
        _route("POST", f"{REPOSITORY}/models/{{model}}/unload", _unload, ADMIN),
        _route("GET", "/metrics", _metrics, INFER),
        _route("GET", "/openapi.json", _openapi),
    ]
    application = Starlette(routes=[*routes, *_others()], exception_handlers={HTTPException: _no_such_address})
    application.state.service = service
    return application


async def read_json(request: Request) -> bytes:
    """Return a small body. Raises `TooLarge`, `TooSlow`."""
    return await read_body(dict(request.headers.raw), request.receive, MAX_JSON_BYTES)


def _others() -> list[BaseRoute]:
    """Routes of rollouts and of the console."""
    from tightship.serve.console.pages import routes as console_routes
    from tightship.serve.rollout.endpoints import routes as rollout_routes

    return [*rollout_routes(), *console_routes()]


def _route(method: str, path: str, answer: Answer, scope: str = "", to_all: bool = False) -> Route:
    return Route(path, guarded(answer, scope, to_all), methods=[method])


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _live(service: Service, request: Request, caller: Caller) -> Response:
    return _json({"live": True})


async def _ready(service: Service, request: Request, caller: Caller) -> Response:
    return _json({"ready": service.ready}, 200 if service.ready else 503)


async def _server(service: Service, request: Request, caller: Caller) -> Response:
    return _json({"name": "tightship", "version": tightship.__version__, "extensions": EXTENSIONS})


async def _models(service: Service, request: Request, caller: Caller) -> Response:
    return _json({"models": list(service.catalogue.models)})


async def _model_ready(service: Service, request: Request, caller: Caller) -> Response:
    try:
        loaded = _asked(service, request)
    except NotReady:
        ready = False
    else:
        ready = not service.draining
        return _json({"name": loaded.name, "ready": ready}, 200 if ready else 503)
    return _json({"name": request.path_params["model"], "ready": ready}, 503)


async def _metadata(service: Service, request: Request, caller: Caller) -> Response:
    loaded = _asked(service, request)
    return _json(
        {
            "name": loaded.name,
            "versions": list(service.catalogue.model(loaded.name).versions),
            "platform": loaded.target.engine,
            "inputs": [_described(spec) for spec in loaded.inputs],
            "outputs": [_described(spec) for spec in loaded.outputs],
        }
    )


async def _index(service: Service, request: Request, caller: Caller) -> Response:
    wanted = _decoded(await read_json(request), _Index)
    rows = await asyncio.to_thread(service.index)
    return _json([row for row in rows if row.state == "READY" or not wanted.ready])


async def _load(service: Service, request: Request, caller: Caller) -> Response:
    """Load what is known by this name; or what lies at `parameters.path` on the server; or the package in the body."""
    model = request.path_params["model"]
    if is_upload(request):
        version = await _load_uploaded(service, request, model, caller)
    else:
        wanted = _decoded(await read_json(request), _Load)
        version = await asyncio.to_thread(service.load, model, wanted.parameters.path, caller.name)
    return _json({"name": model, "version": version})


async def _load_uploaded(service: Service, request: Request, model: str, caller: Caller) -> str:
    deployment = service.deployment
    if deployment is None:
        raise BadRequest("this server has no state; its models are those that it was started with")
    loop = asyncio.get_running_loop()
    blocks = uploaded(request, loop, service.settings.limits.max_upload_bytes)
    stored = await asyncio.to_thread(deployment.packages.receive, blocks, f"upload by {caller.name}")
    return await asyncio.to_thread(deployment.load, model, stored, caller.name)


async def _unload(service: Service, request: Request, caller: Caller) -> Response:
    model = request.path_params["model"]
    await read_json(request)
    await asyncio.to_thread(service.unload, model, caller.name)
    return _json({"name": model})


async def _metrics(service: Service, request: Request, caller: Caller) -> Response:
    from tightship.serve.exposition import exposition

    if service.metrics_folder is None:
        raise NoSuchModel("this server has no state folder, where the workers' counters meet")
    service.catalogue.count_queues()
    accept = request.headers.get("accept", "")
    body, content_type = await asyncio.to_thread(exposition, service.metrics_folder, service.metrics, accept)
    return Response(body, headers={"content-type": content_type})


async def _openapi(service: Service, request: Request, caller: Caller) -> Response:
    from tightship.serve.openapi import document

    return _json(document())


async def _never(service: Service, request: Request, caller: Caller) -> Response:
    """Inference by POST does not come here; the route makes other methods be answered by 405."""
    raise NoSuchModel(f"no model answers at {request.url.path[:200]}")


async def _no_such_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    text = f"{request.method} {request.url.path[:200]}: {error.detail}; /openapi.json says what there is"
    return Response(error_body(text), error.status_code, headers, "application/json")


def _methods(request: Request) -> set[str]:
    """The methods of all routes of this address: Starlette knows those of the first alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in matching for method in route.methods or ()}


def _asked(service: Service, request: Request) -> LoadedModel:
    return service.catalogue.find(request.path_params["model"], request.path_params.get("version"))


def _decoded(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not the JSON that is expected here: {str(error)[:200]}") from error


def _described(spec: TensorSpec) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": shape}
