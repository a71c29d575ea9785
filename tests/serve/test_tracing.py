"""Spans, as a collector receives them over OTLP/HTTP."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tightship.errors import MissingExtra, UsageError
from tightship.serve.tracing import Tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
        self.received.append((self.path, body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    received: list[tuple[str, bytes]] = []
    server = HTTPServer(("127.0.0.1", 0), type("C", (Collector,), {"received": received}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def spans(received: list[tuple[str, bytes]]) -> list[Any]:
    return [
        span
        for _, body in received
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def test_a_span_reaches_the_collector_as_the_callers_child(collector: tuple[str, list[tuple[str, bytes]]]) -> None:
    address, received = collector
    tracing = Tracing(address)
    span = tracing.start("infer", {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    tracing.end(span, model="m", version="2", batch=4)
    tracing.close()
    (found,) = spans(received)
    assert received[0][0] == "/v1/traces"
    assert (found.trace_id.hex(), found.parent_span_id.hex(), found.name, found.kind) == (TRACE, PARENT, "infer", 2)
    attributes = {entry.key: entry.value for entry in found.attributes}
    assert attributes["model"].string_value == "m" and attributes["batch"].int_value == 4


def test_a_failure_is_the_spans_status(collector: tuple[str, list[tuple[str, bytes]]]) -> None:
    address, received = collector
    tracing = Tracing(address)
    tracing.end(tracing.start("infer", {}), "no such model")
    tracing.close()
    (found,) = spans(received)
    assert (found.status.code, found.status.message) == (2, "no such model")
    assert not found.parent_span_id and any(found.trace_id)


def test_a_caller_who_does_not_sample_is_not_traced(collector: tuple[str, list[tuple[str, bytes]]]) -> None:
    address, received = collector
    tracing = Tracing(address)
    tracing.end(tracing.start("infer", {"traceparent": f"00-{TRACE}-{PARENT}-00"}))
    tracing.close()
    assert spans(received) == []


@pytest.mark.parametrize("header", ["", "00-zz-yy-01", "x" * 5000, f"00-{'0' * 32}-{PARENT}-01"])
def test_a_traceparent_that_is_none_begins_a_new_trace(
    collector: tuple[str, list[tuple[str, bytes]]], header: str
) -> None:
    address, received = collector
    tracing = Tracing(address)
    tracing.end(tracing.start("infer", {"traceparent": header}))
    tracing.close()
    (found,) = spans(received)
    assert any(found.trace_id) and not found.parent_span_id


@pytest.mark.parametrize("address", ["", "localhost:4318", "ftp://a", "http://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"expected one like http://127\.0\.0\.1:4318"):
        Tracing(address)


def test_a_missing_exporter_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tightship\[tracing\]'"):
        Tracing("http://127.0.0.1:4318")


def test_importing_the_servers_modules_imports_no_tracing_or_metrics_library() -> None:
    code = (
        "import sys; from tightship.serve import access, exposition, metrics, tracing;"
        "print(*(name for name in ('opentelemetry', 'prometheus_client', 'grpc', 'psutil') if name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
