"""The methods of `GRPCInferenceService`, bytes in and bytes out, over the same `Service` as HTTP.

Inference and metadata need a key for inference where keys are asked for (metadata `authorization: Bearer ts_...` or
`x-api-key`), loading and unloading one for administration, health none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import tightship
from tightship.core.specs import TensorSpec
from tightship.serve.access import ADMIN, ANYBODY, INFER, Caller
from tightship.serve.failures import BadRequest, NoSuchModel, NotReady, RequestFailure
from tightship.serve.foreseen import foreseen
from tightship.serve.grpc_service.messages import METHODS, SERVICE, message
from tightship.serve.grpc_service.tensors import read_request, write_answer
from tightship.serve.loaded import LoadedModel
from tightship.serve.logs import request_id
from tightship.serve.protocol.datatypes import datatype_of
from tightship.serve.service import Service

if TYPE_CHECKING:
    import grpc.aio
    from opentelemetry.trace import Span

__all__ = ["Servicer"]

Answer = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]
Method = Callable[[Any, Caller], Awaitable[Any]]


class Servicer:
    """Answers one worker's gRPC calls."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._request = message("ModelInferRequest")

    def methods(self) -> Mapping[str, Answer]:
        """Return what answers each method of the service, by its name."""
        plain: dict[str, tuple[str, Method]] = {
            "ServerLive": ("", self._server_live),
            "ServerReady": ("", self._server_ready),
            "ModelReady": ("", self._model_ready),
            "ServerMetadata": (INFER, self._server_metadata),
            "ModelMetadata": (INFER, self._model_metadata),
            "RepositoryIndex": (INFER, self._index),
            "RepositoryModelLoad": (ADMIN, self._load),
            "RepositoryModelUnload": (ADMIN, self._unload),
        }
        answers = {name: self._guarded(name, *entry) for name, entry in plain.items()}
        return {name: answers.get(name, self._infer) for name in METHODS}

    async def _infer(self, body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        started = time.perf_counter()
        service = self._service
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        span = None if service.tracing is None else service.tracing.start(f"{SERVICE}/ModelInfer", metadata)
        loaded: LoadedModel | None = None
        caller = ANYBODY
        try:
            if service.access is not None:
                caller = service.access.check(_credential(metadata), INFER)
            request = _parse(self._request, body)
            served = service.catalogue.model(request.model_name)
            loaded, shadow = served.choose(request.model_version or None, _bytes(metadata.get("x-sticky-key")), caller)
            read = read_request(request, loaded.signature)
            outputs = await service.infer(loaded, shadow, read.inputs, _deadline(context, read.timeout_us))
            written = write_answer(loaded.name, loaded.version, read, outputs, loaded.signature)
            answer: bytes = written.SerializeToString()
        except asyncio.CancelledError:
            self._tell(started, metadata, loaded, span, None, "CANCELLED")
            raise
        except Exception as error:
            failure = foreseen(error, metadata.get("x-request-id"))
            self._tell(started, metadata, loaded, span, failure, failure.grpc_code)
            await _abort(context, failure, metadata)
        self._tell(started, metadata, loaded, span, None, "OK")
        if "x-request-id" in metadata:
            context.set_trailing_metadata((("x-request-id", request_id(metadata["x-request-id"])),))
        return answer

    def _tell(
        self,
        started: float,
        metadata: Mapping[str, Any],
        loaded: LoadedModel | None,
        span: Span | None,
        failure: RequestFailure | None,
        status: str,
    ) -> None:
        """Count a call, and write it down where it failed or all are to be written."""
        service, seconds = self._service, time.perf_counter() - started
        name = "" if failure is None else type(failure).__name__
        if loaded is None:
            service.metrics.refuse(name)
        elif status != "CANCELLED":
            service.metrics.observe(loaded.name, loaded.version, seconds, name)
        named = {} if loaded is None else {"model": loaded.name, "version": loaded.version}
        if span is not None and service.tracing is not None:
            service.tracing.end(
                span,
                "" if failure is None else str(failure),
                rpc__method="ModelInfer",
                rpc__response__status_code=status,
                **named,
            )
        if failure is not None or service.log.every:
            service.log.add(
                status,
                seconds,
                failure="" if failure is None else str(failure),
                server_fault=failure is not None and failure.http_status >= 500,
                protocol="grpc",
                request_id=request_id(metadata.get("x-request-id")),
                **named,
            )

    def _guarded(self, name: str, scope: str, answer: Method) -> Answer:
        """Wrap a method that is not asked often: parse, check the key, answer, say what failed."""
        request_class = message(f"{name}Request")

        async def guarded(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
            access = self._service.access
            try:
                caller = ANYBODY
                if access is not None and scope:
                    caller = access.check(_credential(metadata), scope)
                answered = await answer(_parse(request_class, body), caller)
                return bytes(answered.SerializeToString())
            except asyncio.CancelledError:
                raise
            except Exception as error:
                failure = foreseen(error, metadata.get("x-request-id"))
                self._tell(time.perf_counter(), metadata, None, None, failure, failure.grpc_code)
                await _abort(context, failure, metadata)
                raise  # not reached: abort raises

        return guarded

    async def _server_live(self, request: Any, caller: Caller) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _server_ready(self, request: Any, caller: Caller) -> Any:
        return message("ServerReadyResponse")(ready=self._service.ready)

    async def _model_ready(self, request: Any, caller: Caller) -> Any:
        try:
            self._service.catalogue.find(request.name, request.version or None)
        except (NoSuchModel, NotReady):
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=not self._service.draining)

    async def _server_metadata(self, request: Any, caller: Caller) -> Any:
        extensions = ["binary_tensor_data", "model_repository"]
        return message("ServerMetadataResponse")(name="tightship", version=tightship.__version__, extensions=extensions)

    async def _model_metadata(self, request: Any, caller: Caller) -> Any:
        served = self._service.catalogue.model(request.name)
        loaded = self._service.catalogue.find(request.name, request.version or None)
        return message("ModelMetadataResponse")(
            name=loaded.name,
            versions=list(served.versions),
            platform=loaded.target.engine,
            inputs=[_described(spec) for spec in loaded.inputs],
            outputs=[_described(spec) for spec in loaded.outputs],
        )

    async def _index(self, request: Any, caller: Caller) -> Any:
        rows = await asyncio.to_thread(self._service.index)
        entry = message("RepositoryIndexResponse").ModelIndex
        models = [
            entry(name=row.name, version=row.version, state=row.state, reason=row.reason)
            for row in rows
            if row.state == "READY" or not request.ready
        ]
        return message("RepositoryIndexResponse")(models=models)

    async def _load(self, request: Any, caller: Caller) -> Any:
        name = _model_name(request)
        path = request.parameters["path"].string_param if "path" in request.parameters else ""
        await asyncio.to_thread(self._service.load, name, path, caller.name)
        return message("RepositoryModelLoadResponse")(model_name=name, isLoaded=True)

    async def _unload(self, request: Any, caller: Caller) -> Any:
        name = _model_name(request)
        await asyncio.to_thread(self._service.unload, name, caller.name)
        return message("RepositoryModelUnloadResponse")(model_name=name, isUnloaded=True)


async def _abort(
    context: grpc.aio.ServicerContext[bytes, bytes], failure: RequestFailure, metadata: Mapping[str, Any]
) -> None:
    """End a call with an error; what HTTP says in headers (`retry-after`) stands in the trailing metadata."""
    import grpc

    extra = tuple((name.decode(), value.decode()) for name, value in failure.headers)
    extra = (*extra, ("x-request-id", request_id(metadata.get("x-request-id"))))
    await context.abort(grpc.StatusCode[failure.grpc_code], str(failure), extra)


def _parse(request_class: Any, body: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return request_class.FromString(body)
    except DecodeError as error:
        raise BadRequest(f"the message is no inference.{request_class.DESCRIPTOR.name}: {error}") from error


def _credential(metadata: Mapping[str, Any]) -> bytes | None:
    return _bytes(metadata.get("authorization") or metadata.get("x-api-key"))


def _bytes(text: str | bytes | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text


def _deadline(context: grpc.aio.ServicerContext[bytes, bytes], timeout_us: int) -> float:
    """Return the earlier of the call's deadline and the request's own, as a moment of `time.monotonic`; 0 for none."""
    left = context.time_remaining()
    limits = [] if left is None else [float(left)]
    if timeout_us:
        limits.append(timeout_us / 1e6)
    return time.monotonic() + max(min(limits), 1e-6) if limits else 0.0


def _described(spec: TensorSpec) -> Any:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return message("ModelMetadataResponse").TensorMetadata(
        name=spec.name, datatype=datatype_of(spec.dtype), shape=shape
    )


def _model_name(request: Any) -> str:
    """The model's name is where Triton's clients put it, or where KServe's do."""
    name: str = request.model_name or request.repository_name
    if not name:
        raise BadRequest("the request names no model")
    return name
