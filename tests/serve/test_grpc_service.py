"""The gRPC service as a client sees it, on the loop that it runs on in a worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import uvloop

import tightship
from tests.serve.certificates import Authority
from tightship.core.session import Arrays
from tightship.errors import ServeError
from tightship.serve.access import Access
from tightship.serve.api_keys import ApiKeys
from tightship.serve.catalogue import Catalogue
from tightship.serve.database import Database
from tightship.serve.grpc_service.messages import SERVICE, message
from tightship.serve.grpc_service.server import GrpcServer
from tightship.serve.grpc_service.servicer import Servicer
from tightship.serve.loaded import Opener
from tightship.serve.metrics import Metrics
from tightship.serve.routing import Routes
from tightship.serve.service import Service
from tightship.serve.settings import Limits, ServeSettings
from tightship.serve.tls import TlsFiles

DOUBLE = """
<ir_version: 9, opset_import: ["" : 20]>
double (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }
"""


@dataclass
class Running:
    """A gRPC server on a loop of its own, and a channel to it."""

    service: Service
    loop: asyncio.AbstractEventLoop
    port: int
    channel: grpc.Channel

    def call(self, method: str, request: Any = None, **options: Any) -> Any:
        """Call a method with its message, by default an empty one, and return the answer."""
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        request = message(f"{method}Request")() if request is None else request
        body = request if isinstance(request, bytes) else request.SerializeToString()
        return message(f"{method}Response").FromString(call(body, timeout=options.pop("timeout", 20), **options))

    def fails(self, method: str, request: Any = None, **options: Any) -> grpc.RpcError:
        """Call a method that is to fail, and return how."""
        with pytest.raises(grpc.RpcError) as failed:
            self.call(method, request, **options)
        return failed.value


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "double.onnx"
    onnx.save(onnx.parser.parse_model(DOUBLE), path)
    return path


@pytest.fixture(scope="module")
def start(model: Path) -> Iterator[Start]:
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[GrpcServer] = []

    def run(coroutine: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, loop)
        return future.result(20)

    def begin(settings: ServeSettings, access: Access | None = None, credentials: Any = None) -> Running:
        metrics = Metrics()
        catalogue = Catalogue(Opener(settings.limits), metrics)
        catalogue.loop = loop
        catalogue.load("double", "1", model)
        catalogue.route("double", Routes("1"))
        service = Service(settings, catalogue, metrics, access)

        async def serve() -> int:
            server = GrpcServer(Servicer(service), settings)
            servers.append(server)
            await server.start()
            return server.port

        port = run(serve())
        address = f"localhost:{port}"
        channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
        return Running(service, loop, port, channel)

    yield begin
    for server in servers:
        run(server.stop(1.0))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServeSettings:
    limits = Limits(max_body_bytes=1 << 20)
    return ServeSettings(tmp_path_factory.mktemp("state"), grpc_port=0, limits=limits)


@pytest.fixture(scope="module")
def running(start: Start, settings: ServeSettings) -> Running:
    return start(settings)


def infer_request(array: np.ndarray, model: str = "double", version: str = "") -> Any:
    request = message("ModelInferRequest")(model_name=model, model_version=version, id="4")
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return request


ONES = np.ones((2, 3), np.float32)


def test_a_tensor_goes_in_and_its_double_comes_out(running: Running) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    answer = running.call("ModelInfer", infer_request(array))
    assert (answer.model_name, answer.model_version, answer.id, list(answer.outputs[0].shape)) == (
        "double",
        "1",
        "4",
        [4, 3],
    )
    assert np.array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(4, 3), 2 * array)


def test_health_and_metadata_are_told(running: Running) -> None:
    assert running.call("ServerLive").live and running.call("ServerReady").ready
    assert running.call("ModelReady", message("ModelReadyRequest")(name="double")).ready
    assert not running.call("ModelReady", message("ModelReadyRequest")(name="other")).ready
    assert running.call("ServerMetadata").version == tightship.__version__
    metadata = running.call("ModelMetadata", message("ModelMetadataRequest")(name="double"))
    assert list(metadata.versions) == ["1"] and metadata.platform == "onnxruntime"
    (given,) = metadata.inputs
    assert (given.name, given.datatype, list(given.shape)) == ("x", "FP32", [-1, 3])


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (infer_request(ONES, "doubel"), "NOT_FOUND", "did you mean 'double'"),
        (infer_request(ONES, version="9"), "NOT_FOUND", "loaded: 1"),
        (infer_request(np.ones((2, 4), np.float32)), "INVALID_ARGUMENT", r"expected shape [any, 3], found [2, 4]"),
        (b"\xff\xff", "INVALID_ARGUMENT", "no inference.ModelInferRequest"),
        (infer_request(np.ones((400_000, 3), np.float32)), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
    ids=["model", "version", "shape", "garbage", "too large"],
)
def test_a_bad_call_ends_with_the_code_of_its_failure(running: Running, request_: Any, code: str, says: str) -> None:
    failed = running.fails("ModelInfer", request_)
    assert failed.code() is grpc.StatusCode[code] and says in failed.details()


def test_a_method_that_is_none_is_unimplemented(running: Running) -> None:
    call = running.channel.unary_unary(f"/{SERVICE}/ModelStatistics")
    with pytest.raises(grpc.RpcError) as failed:
        call(b"", timeout=20)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_calls_and_failures_are_counted(running: Running) -> None:
    series = running.service.metrics.of("double", "1")
    before = (series.requests, series.failed)
    running.call("ModelInfer", infer_request(ONES))
    running.fails("ModelInfer", infer_request(np.ones((2, 4), np.float32)))
    assert (series.requests, series.failed) == (before[0] + 2, before[1] + 1)
    assert series.failures["BadRequest"] >= 1


def test_a_request_id_comes_back(running: Running) -> None:
    call = running.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    _, ended = call.with_call(infer_request(ONES).SerializeToString(), metadata=(("x-request-id", "abc"),))
    assert ("x-request-id", "abc") in ended.trailing_metadata()
    failed = running.fails("ModelInfer", infer_request(ONES, "none"), metadata=(("x-request-id", "abd"),))
    assert ("x-request-id", "abd") in failed.trailing_metadata()


class Blocked:
    """Stands in for a loaded model's runs: they wait for an event, so that a test decides how long one takes."""

    def __init__(self, running: Running, patch: pytest.MonkeyPatch) -> None:
        self.cancelled = threading.Event()
        self.began = threading.Event()
        self.deadlines: list[float] = []
        patch.setattr(running.service.catalogue.find("double"), "infer", self.infer)

    async def infer(self, arrays: Arrays, deadline: float = 0.0) -> Arrays:
        self.deadlines.append(deadline)
        self.began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {}


def test_a_call_whose_client_hangs_up_is_cancelled(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = Blocked(running, monkeypatch)
    call = running.channel.unary_unary(f"/{SERVICE}/ModelInfer").future(infer_request(ONES).SerializeToString())
    assert blocked.began.wait(10)
    call.cancel()
    assert blocked.cancelled.wait(10)


def test_a_deadline_travels_to_the_model_and_ends_the_call(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    blocked = Blocked(running, monkeypatch)
    began = time.monotonic()
    failed = running.fails("ModelInfer", infer_request(ONES), timeout=0.3)
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert blocked.cancelled.wait(10)
    assert began < blocked.deadlines[0] < began + 0.4


class Spans:
    """Stands in for tracing: keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, Any]]] = []

    def start(self, name: str, headers: Mapping[str, str]) -> tuple[str, str]:
        return name, headers["traceparent"]

    def end(self, span: tuple[str, str], failure: str = "", **attributes: Any) -> None:
        self.told.append((span[1], failure, attributes))


def test_a_traced_call_is_a_span_below_its_callers(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Spans()
    monkeypatch.setattr(running.service, "tracing", spans)
    running.call("ModelInfer", infer_request(ONES), metadata=(("traceparent", "t1"),))
    running.fails("ModelInfer", infer_request(ONES, version="9"), metadata=(("traceparent", "t2"),))
    (first, _, good), (second, failure, bad) = spans.told
    assert (first, good["model"], good["version"], good["rpc__response__status_code"]) == ("t1", "double", "1", "OK")
    assert (second, bad["rpc__response__status_code"]) == ("t2", "NOT_FOUND") and "loaded: 1" in failure


def test_an_error_that_nobody_foresaw_is_told_to_the_log_alone(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(arrays: Arrays, deadline: float = 0.0) -> Arrays:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(running.service.catalogue.find("double"), "infer", breaks)
    failed = running.fails("ModelInfer", infer_request(ONES), metadata=(("x-request-id", "r9"),))
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "r9" in failed.details() and "secret" not in failed.details()


def test_keys_are_asked_for_where_there_are_any(start: Start, settings: ServeSettings, tmp_path: Path) -> None:
    keys = ApiKeys(Database(tmp_path / "state.sqlite"))
    key, limited = keys.add("phone"), keys.add("slow", rate_per_s=0.001, burst=1)
    running = start(settings, Access(keys))
    assert running.call("ServerReady").ready
    assert running.fails("ModelInfer", infer_request(ONES)).code() is grpc.StatusCode.UNAUTHENTICATED
    for name, value in (("authorization", f"Bearer {key}"), ("x-api-key", key)):
        assert running.call("ModelInfer", infer_request(ONES), metadata=((name, value),)).id == "4"
    unload = message("RepositoryModelUnloadRequest")(model_name="double")
    bearer = (("authorization", f"Bearer {key}"),)
    assert running.fails("RepositoryModelUnload", unload, metadata=bearer).code() is grpc.StatusCode.PERMISSION_DENIED
    assert running.fails("RepositoryModelUnload", unload).code() is grpc.StatusCode.UNAUTHENTICATED
    slow = (("x-api-key", limited),)
    running.call("ModelInfer", infer_request(ONES), metadata=slow)
    failed = running.fails("ModelInfer", infer_request(ONES), metadata=slow)
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(failed.trailing_metadata())["retry-after"]) > 100


def test_mutual_tls_lets_in_who_shows_a_certificate_and_nobody_else(
    start: Start, settings: ServeSettings, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    server, phone = authority.issue("server"), authority.issue("phone")
    tls = TlsFiles(server.certificate, server.key, authority.certificate)
    root = authority.certificate.read_bytes()
    known = grpc.ssl_channel_credentials(root, phone.key.read_bytes(), phone.certificate.read_bytes())
    running = start(replace(settings, tls=tls), credentials=known)
    assert running.call("ModelInfer", infer_request(ONES)).id == "4"
    for credentials in (grpc.ssl_channel_credentials(root), None):
        address = f"localhost:{running.port}"
        channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
        stranger = replace(running, channel=channel)
        assert stranger.fails("ServerLive", timeout=5).code() is grpc.StatusCode.UNAVAILABLE
        channel.close()


def test_a_port_that_is_taken_is_named(running: Running, settings: ServeSettings) -> None:
    async def serve() -> None:
        GrpcServer(Servicer(running.service), replace(settings, grpc_port=running.port))

    with pytest.raises(ServeError, match=f"cannot listen on 127.0.0.1:{running.port}"):
        asyncio.run_coroutine_threadsafe(serve(), running.loop).result(20)
