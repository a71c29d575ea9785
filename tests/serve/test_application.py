"""Inference over ASGI, without a socket: what is answered, refused, counted, and how requests find their version."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest

pytest.importorskip("starlette")

from tests import nets
from tightship.serve.application import Application
from tightship.serve.catalogue import Catalogue
from tightship.serve.endpoints import endpoints
from tightship.serve.failures import NoSuchModel, NotReady
from tightship.serve.loaded import Opener
from tightship.serve.metrics import Metrics
from tightship.serve.observations import Observations
from tightship.serve.routing import Routes
from tightship.serve.service import Service
from tightship.serve.settings import Limits, ServeSettings

LIMITS = Limits(max_body_bytes=100_000)
MODEL = "/v2/models/net/infer"


class Asked:
    """One answer: its status, headers and body."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A worker's parts, with a model `net` of two versions, the first of which answers."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self.catalogue = Catalogue(Opener(LIMITS), self.metrics)
        for version in (1, 2):
            path = nets.save(nets.mlp(4, seed=version), folder, f"{version}.onnx")
            self.catalogue.load("net", str(version), path)
        self.catalogue.route("net", Routes("1"))
        self.service = Service(ServeSettings(folder, limits=LIMITS), self.catalogue, self.metrics)
        self.application = Application(self.service, endpoints)

    async def asks(
        self, path: str, body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST"
    ) -> Asked:
        named = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": named}
        scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http"}
        scope |= {"server": ("a", 1), "client": ("b", 2)}
        parts = [body[:50], body[50:]]

        async def receive() -> dict[str, Any]:
            if not parts:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        found = Asked()
        self.catalogue.loop = asyncio.get_running_loop()
        await self.application(scope, receive, found.send)
        return found

    def ask(self, *arguments: Any, **named: Any) -> Asked:
        return asyncio.run(self.asks(*arguments, **named))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("models"))
    yield made
    made.catalogue.loop = None
    made.catalogue.close()


def request(rows: int = 1, **others: Any) -> bytes:
    described = {"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": [0.5] * (4 * rows)}
    return json.dumps({"inputs": [described], **others}).encode()


def binary_request(array: np.ndarray) -> tuple[bytes, dict[str, str]]:
    parameters = {"binary_data_size": array.nbytes}
    described = {"name": "x", "shape": list(array.shape), "datatype": "FP32", "parameters": parameters}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def run(server: Server, array: np.ndarray, version: str = "1") -> np.ndarray:
    return server.catalogue.find("net", version).run({"x": array})["y"]


def test_json_is_answered_with_what_the_model_computes(server: Server) -> None:
    found = server.ask(MODEL, request(2))
    wanted = run(server, np.full((2, 4), 0.5, np.float32))
    assert found.status == 200 and found.json["model_version"] == "1"
    assert np.array_equal(np.array(found.json["outputs"][0]["data"], np.float32).reshape(2, 8), wanted)


def test_binary_is_answered_in_binary(server: Server) -> None:
    array = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    body, headers = binary_request(array)
    for _ in range(3):
        found = server.ask(MODEL, body, headers)
        length = int(found.headers["inference-header-content-length"])
        assert np.array_equal(np.frombuffer(found.body[length:], np.float32).reshape(3, 8), run(server, array))


def test_a_version_that_is_asked_for_answers(server: Server) -> None:
    found = server.ask("/v2/models/net/versions/2/infer", request())
    wanted = run(server, np.full((1, 4), 0.5, np.float32), "2")
    assert found.json["model_version"] == "2"
    assert np.array_equal(np.array(found.json["outputs"][0]["data"], np.float32), wanted[0])


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_bodies_are_unpacked(server: Server, name: str, pack: Any) -> None:
    assert server.ask(MODEL, pack(request()), {"Content-Encoding": name}).status == 200


def test_the_id_and_the_request_id_come_back(server: Server) -> None:
    found = server.ask(MODEL, request(id="seven"), {"X-Request-Id": "abc-7"})
    assert found.json["id"] == "seven" and found.headers["x-request-id"] == "abc-7"


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "reason"),
    [
        ("/v2/models/nte/infer", request(), {}, 404, "did you mean 'net'"),
        ("/v2/models/net/versions/3/infer", request(), {}, 404, "loaded: 1, 2"),
        (MODEL, b"{", {}, 400, "not the JSON"),
        (MODEL, b"", {}, 400, "not the JSON"),
        (MODEL, request(), {"Inference-Header-Content-Length": "x"}, 400, "expected a count"),
        (MODEL, request(6000), {}, 413, "100,000 bytes that are allowed"),
        (MODEL, request(1000), {"Content-Length": "1000000000"}, 413, "1,000,000,000 bytes"),
        (MODEL, gzip.compress(bytes(10**7), mtime=0), {"Content-Encoding": "gzip"}, 413, "unpacks to more"),
        (MODEL, gzip.compress(request(), mtime=0)[:-9], {"Content-Encoding": "gzip"}, 400, "not one whole gzip stream"),
        (MODEL, request(), {"Content-Encoding": "br"}, 400, "expected gzip"),
        (MODEL, b"GIF89a", {"Content-Type": "image/gif"}, 400, "declares no processing"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(
    server: Server, path: str, body: bytes, headers: dict[str, str], status: int, reason: str
) -> None:
    found = server.ask(path, body, headers)
    assert found.status == status and reason in found.json["error"]
    assert found.headers["x-request-id"]


@pytest.mark.parametrize(("method", "path"), [("GET", MODEL), ("POST", "/v2"), ("DELETE", "/v2/health/live")])
def test_other_methods_are_refused_with_those_that_are_there(server: Server, method: str, path: str) -> None:
    found = server.ask(path, method=method)
    assert found.status == 405 and found.headers["allow"]


@pytest.mark.parametrize("path", ["/v3/other", "/v2/models/net/versions//infer", "/v2/models//infer", "/%2e%2e/etc"])
def test_an_unknown_address_is_told_in_json(server: Server, path: str) -> None:
    found = server.ask(path, request())
    assert found.status == 404 and "/openapi.json" in found.json["error"]


def test_metadata_tells_inputs_and_outputs(server: Server) -> None:
    found = server.ask("/v2/models/net", method="GET").json
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert found["versions"] == ["1", "2"] and found["platform"] == "onnxruntime"


def test_a_server_that_drains_is_not_ready_and_lives(server: Server) -> None:
    assert server.ask("/v2/health/ready", method="GET").status == 200
    server.service.draining = True
    try:
        assert server.ask("/v2/health/ready", method="GET").status == 503
        assert server.ask("/v2/models/net/ready", method="GET").status == 503
        assert server.ask("/v2/health/live", method="GET").status == 200
        assert server.ask(MODEL, request()).status == 200
    finally:
        server.service.draining = False


def test_a_client_that_goes_while_it_sends_is_not_answered(server: Server) -> None:
    async def talk() -> Asked:
        found = Asked()

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        scope = {"type": "http", "method": "POST", "path": MODEL, "headers": []}
        await server.application(scope, receive, found.send)
        return found

    assert asyncio.run(talk()).status == 0


def test_answers_and_failures_are_counted(server: Server) -> None:
    series = server.metrics.of("net", "1")
    before = series.requests, series.failed
    server.ask(MODEL, request())
    server.ask(MODEL, b"{")
    assert (series.requests, series.failed) == (before[0] + 2, before[1] + 1)
    assert series.failures["BadRequest"] >= 1


def test_a_share_of_the_requests_goes_to_the_candidate(server: Server) -> None:
    async def talk() -> list[str]:
        return [(await server.asks(MODEL, request())).json["model_version"] for _ in range(200)]

    server.catalogue.route("net", Routes("1", "2", share=0.5))
    try:
        versions = asyncio.run(talk())
    finally:
        server.catalogue.route("net", Routes("1"))
    assert 60 < versions.count("2") < 140  # p < 1e-8 of failing by chance


def test_a_caller_with_a_sticky_key_stays_with_a_version(server: Server) -> None:
    async def talk() -> list[set[str]]:
        found = []
        for key in ("ann", "bob", "cid", "dan", "eve", "fay"):
            answers = [(await server.asks(MODEL, request(), {"X-Sticky-Key": key})).json for _ in range(8)]
            found.append({answer["model_version"] for answer in answers})
        return found

    server.catalogue.route("net", Routes("1", "2", share=0.5))
    try:
        assert all(len(versions) == 1 for versions in asyncio.run(talk()))
    finally:
        server.catalogue.route("net", Routes("1"))


def test_a_shadow_gets_a_copy_and_is_compared(server: Server) -> None:
    observed = server.service.observations = Observations()
    observed.watch("net", (1, 0), ("1", "2"), lambda old, new: 0.25, False)

    async def talk() -> Asked:
        found = await server.asks(MODEL, request())
        while server.service._shadows:
            await asyncio.gather(*server.service._shadows)
        return found

    server.catalogue.route("net", Routes("1", "2", share=0.0, shadow=1.0))
    try:
        assert asyncio.run(talk()).json["model_version"] == "1"
    finally:
        server.catalogue.route("net", Routes("1"))
        server.service.observations = Observations()
    seen = {(increment.version, increment.kind) for increment in observed.take()}
    assert {("1", "outcome"), ("2", "outcome"), ("2", "disagreement")} <= seen


def test_versions_come_and_go_while_requests_are_answered(server: Server, tmp_path: Path) -> None:
    path = nets.save(nets.mlp(4, seed=3), tmp_path, "3.onnx")

    async def talk() -> set[str]:
        seen = set()
        for round_number in range(12):
            if round_number == 4:
                await asyncio.to_thread(server.catalogue.load, "net", "3", path)
                server.catalogue.route("net", Routes("3"))
            if round_number == 8:
                server.catalogue.route("net", Routes("1"))
                server.catalogue.unload("net", "3")
            answers = await asyncio.gather(*(server.asks(MODEL, request()) for _ in range(20)))
            assert all(answer.status == 200 for answer in answers)
            seen |= {answer.json["model_version"] for answer in answers}
        return seen

    assert asyncio.run(talk()) == {"1", "3"}


def test_a_model_without_a_version_that_answers_is_not_ready(tmp_path: Path) -> None:
    catalogue = Catalogue(Opener(LIMITS))
    with pytest.raises(NoSuchModel, match="served here: none"):
        catalogue.find("net")
    catalogue.route("net", Routes("1"))
    assert not catalogue.ready
    with pytest.raises(NotReady):
        catalogue.find("net")
    with pytest.raises(NotReady):
        catalogue.model("net").choose(None, None)


def test_a_model_that_fails_is_answered_with_500(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        net (int64[n] x) => (float[n] y) <float[2] table = {1, 2}> { y = Gather (table, x) }"""
    )
    catalogue = Catalogue(Opener(LIMITS))
    catalogue.load("net", "1", nets.save(model, tmp_path))
    catalogue.route("net", Routes("1"))
    server = object.__new__(Server)
    server.catalogue, server.metrics = catalogue, Metrics()
    server.service = Service(ServeSettings(tmp_path, limits=LIMITS), catalogue, server.metrics)
    server.application = Application(server.service, endpoints)
    body = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [7]}]}).encode()
    found = server.ask(MODEL, body)
    assert found.status == 500 and "net 1" in found.json["error"]


def test_a_shadow_prepares_a_picture_in_its_own_way(tmp_path: Path) -> None:
    """Else a version with another normalization would seem to disagree."""
    compared: list[tuple[str, str]] = []
    prepared = SimpleNamespace(prepare=lambda body, kind: f"{kind} as the new version takes it")

    async def run(arrays: str, deadline: float = 0.0) -> str:
        return arrays

    old, new = (SimpleNamespace(name="net", version=version, infer=run, processor=prepared) for version in "12")
    new.signature = SimpleNamespace(check_arrays=lambda arrays: None)
    counts = SimpleNamespace(
        watching=lambda name: True,
        add=lambda *values, **named: None,
        compare=lambda name, before, after, outputs, copied: compared.append((outputs, copied)),
    )

    async def ask() -> None:
        service = Service(ServeSettings(tmp_path), cast(Any, None), Metrics(), observations=cast(Any, counts))
        for posted in (None, (b"GIF89a", "image/gif")):
            await service.infer(cast(Any, old), cast(Any, new), cast(Any, "as the old one"), posted=posted)
            while service._shadows:
                await asyncio.sleep(0)

    asyncio.run(ask())
    assert compared == [
        ("as the old one", "as the old one"),
        ("as the old one", "image/gif as the new version takes it"),
    ]
