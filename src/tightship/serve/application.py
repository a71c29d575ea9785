"""The server as an ASGI application: inference by hand, for the least work per request; all else through `endpoints`.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from tightship.serve.access import ANYBODY, INFER
from tightship.serve.bodies import ClientGone, Receive, read_body
from tightship.serve.failures import BadRequest
from tightship.serve.foreseen import foreseen
from tightship.serve.loaded import LoadedModel
from tightship.serve.logs import request_id
from tightship.serve.protocol.answers import Headers, json_headers
from tightship.serve.protocol.requests import InferRequest
from tightship.serve.service import Service

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["Application", "Asgi", "Headers", "Scope", "Send", "error_body", "failure_answer"]

Scope = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Target = tuple[str, str | None]
"""Names of a model and of a version of it, if one was asked for."""

MAX_KNOWN_PATHS = 1024
MAX_PATH = 512
STICKY = b"x-sticky-key"
REQUEST_ID = b"x-request-id"
HEADER_LENGTH = b"inference-header-content-length"
MEDIA = (b"image/", b"audio/", b"text/")


class _Inference:
    """One request for inference: what it asks for, and who answers as soon as that is chosen."""

    __slots__ = ("alone", "caller", "headers", "loaded", "shadow", "span", "started", "target")

    def __init__(self, target: Target, headers: dict[bytes, bytes]) -> None:
        self.started = perf_counter()
        self.target = target
        self.headers = headers
        self.caller = ANYBODY
        self.loaded: LoadedModel | None = None
        self.shadow: LoadedModel | None = None
        self.span: Span | None = None
        self.alone = False


class Application:
    """Answers one worker's HTTP requests. `others` makes the application for all that is not inference, when needed."""

    def __init__(self, service: Service, others: Callable[[Service], Asgi]) -> None:
        self._service = service
        self._make_others = others
        self._others: Asgi | None = None
        self._targets: dict[str, Target] = {}
        self._max_body_bytes = service.settings.limits.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        target = self._targets.get(scope["path"]) or self._target(scope)
        if target is None or scope["method"] != "POST":
            self.prepare()
            await self._others(scope, receive, send)  # type: ignore[misc]
            return
        inference = _Inference(target, dict(scope["headers"]))
        try:
            status, body, headers = await self._infer(inference, receive)
        except (ClientGone, asyncio.CancelledError):
            return  # nobody is there to be answered
        except Exception as error:
            status, body, headers = self._failed(inference, error)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def at_once(self, path: str, headers: dict[bytes, bytes], body: bytes) -> tuple[int, bytes, Headers] | None:
        """Answer a request for inference that needs no waiting: status, body and headers. None where it needs some."""
        target = self._targets.get(path)
        served = None if target is None else self._service.catalogue.models.get(target[0])
        if target is None or served is None or served.only is None or not served.only.inline:
            return None
        inference = _Inference(target, headers)
        try:
            self._admit(inference)
            return self._quick_answer(inference, self._read(inference, body))
        except Exception as error:
            inference.headers = dict(headers)
            return self._failed(inference, error)

    def hot(self, path: str) -> bool:
        """Whether a request for this path is inference, which mostly needs no waiting."""
        return path in self._targets

    def prepare(self) -> None:
        """Make ready what answers all but inference."""
        if self._others is None:
            self._others = self._make_others(self._service)

    def _target(self, scope: Scope) -> Target | None:
        """Take a path apart; that of a model that is served is remembered."""
        parts = str(scope["raw_path"], "latin-1").split("/") if "raw_path" in scope else scope["path"].split("/")
        target: Target | None = None
        match parts:
            case ["", "v2", "models", model, "infer"] if model:
                target = (unquote(model), None)
            case ["", "v2", "models", model, "versions", version, "infer"] if model and version:
                target = (unquote(model), unquote(version))
        if target is not None and target[0] in self._service.catalogue.models and len(scope["path"]) < MAX_PATH:
            if len(self._targets) >= MAX_KNOWN_PATHS:
                self._targets.clear()
            self._targets[scope["path"]] = target
        return target

    async def _infer(self, inference: _Inference, receive: Receive) -> tuple[int, bytes, Headers]:
        """Return status, body and headers of the answer."""
        self._admit(inference)
        self._service.catalogue.model(inference.target[0])
        body = await read_body(inference.headers, receive, self._max_body_bytes)
        request = self._read(inference, body)
        found = self._quick_answer(inference, request)
        if found is not None:
            return found
        loaded = inference.loaded
        assert loaded is not None
        if request is None:
            answer = await self._interpreted(inference, loaded, body)
            return self._counted(inference, loaded, answer, json_headers(answer))
        outputs = await self._service.infer(loaded, inference.shadow, request.inputs, _deadline(request))
        return self._counted(inference, loaded, *loaded.answers.write(request, outputs))

    def _admit(self, inference: _Inference) -> None:
        """Begin the span of a request, and check that who asks may."""
        service, headers = self._service, inference.headers
        if service.tracing is not None:
            inference.span = service.tracing.start("infer", _texts(headers))
        if service.hosts is not None:
            service.hosts.check(headers.get(b"host"), headers.get(b"origin"))
        if service.access is not None:
            inference.caller = service.access.check(_credential(headers), INFER)

    def _read(self, inference: _Inference, body: bytes) -> InferRequest | None:
        """Choose who answers, and read the request: None where it is not tensors but a picture, text or sound."""
        model, version = inference.target
        headers = inference.headers
        served = self._service.catalogue.model(model)
        loaded = served.only if version is None else None
        if loaded is None:
            loaded, inference.shadow = served.choose(version, headers.get(STICKY), inference.caller)
        inference.loaded = loaded
        inference.alone = served.only is loaded
        if headers.get(b"content-type", b"").startswith(MEDIA):
            return None
        return loaded.requests.read(body, headers.get(HEADER_LENGTH))

    def _quick_answer(self, inference: _Inference, request: InferRequest | None) -> tuple[int, bytes, Headers] | None:
        """Answer what is run on the loop; None for what is not, or is part of a rollout."""
        loaded = inference.loaded
        if request is None or loaded is None or not inference.alone or not loaded.quick(request.n_elements):
            return None
        answer, headers = loaded.answers.write(request, loaded.run_at_once(request.inputs))
        return self._counted(inference, loaded, answer, headers)

    def _counted(
        self, inference: _Inference, loaded: LoadedModel, answer: bytes, headers: Headers
    ) -> tuple[int, bytes, Headers]:
        seconds = perf_counter() - inference.started
        self._service.metrics.observe(loaded.name, loaded.version, seconds)
        if self._service.log.every or inference.span is not None:
            self._tell(inference, seconds, 200)
        if REQUEST_ID in inference.headers:
            headers = (*headers, (REQUEST_ID, request_id(inference.headers[REQUEST_ID]).encode()))
        return 200, answer, headers

    async def _interpreted(self, inference: _Inference, loaded: LoadedModel, body: bytes) -> bytes:
        """Answer a picture, a text or a sound, as the package's processing says."""
        content_type = inference.headers[b"content-type"].decode("latin-1")
        processor = loaded.processor
        if processor is None:
            raise BadRequest(
                f"{loaded.name} declares no processing of {content_type[:60]}; send tensors "
                "(application/json or application/octet-stream), or pack it with --processing"
            )
        arrays = await asyncio.to_thread(processor.prepare, body, content_type)
        outputs = await self._service.infer(loaded, inference.shadow, arrays, posted=(body, content_type))
        told = processor.interpret(outputs)
        return msgspec.json.encode({"model_name": loaded.name, "model_version": loaded.version, **told})

    def _failed(self, inference: _Inference, error: Exception) -> tuple[int, bytes, Headers]:
        """Count and log a failure; return status, body and headers."""
        metrics, loaded = self._service.metrics, inference.loaded
        seconds = perf_counter() - inference.started
        name = type(error).__name__
        if loaded is not None:
            metrics.observe(loaded.name, loaded.version, seconds, name)
        else:
            metrics.refuse(name)
        number = request_id(inference.headers.get(REQUEST_ID)).encode()
        inference.headers[REQUEST_ID] = number
        status, body, extra = failure_answer(error, number.decode())
        self._tell(inference, seconds, status, f"{name}: {error}")
        return status, body, (*json_headers(body), (REQUEST_ID, number), *extra)

    def _tell(self, inference: _Inference, seconds: float, status: int, failure: str = "") -> None:
        """Write a request to the log, and end its span."""
        service, loaded = self._service, inference.loaded
        model, version = inference.target
        named = {"model": model[:80], "version": (loaded.version if loaded is not None else version or "")[:80]}
        service.log.add(
            str(status),
            seconds,
            failure=failure,
            server_fault=status >= 500,
            request_id=request_id(inference.headers.get(REQUEST_ID)),
            **named,
        )
        if inference.span is not None and service.tracing is not None:
            service.tracing.end(inference.span, failure, http__response__status_code=status, **named)


def failure_answer(error: Exception, number: str) -> tuple[int, bytes, Headers]:
    """Return status, body and headers of what went wrong with request `number`."""
    failure = foreseen(error, number)
    return failure.http_status, error_body(str(failure)), failure.headers


def error_body(message: str) -> bytes:
    """Return an error as the protocol's JSON."""
    return msgspec.json.encode({"error": message})


def _credential(headers: Mapping[bytes, bytes]) -> bytes | None:
    return headers.get(b"authorization") or headers.get(b"x-api-key")


def _deadline(request: InferRequest) -> float:
    return time.monotonic() + request.timeout_us / 1e6 if request.timeout_us else 0.0


def _texts(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
