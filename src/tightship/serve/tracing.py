"""OpenTelemetry spans of requests, sent by OTLP over HTTP to the collector that the user names; off unless named.

A caller's `traceparent` (W3C Trace Context) makes the span a child of theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import tightship
from tightship.core import extras
from tightship.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

__all__ = ["Tracing"]

PATH = "/v1/traces"


class Tracing:
    """Makes and ends spans of one worker. A server without tracing has None in its place, and pays nothing."""

    def __init__(self, endpoint: str, sampled_fraction: float = 1.0) -> None:
        """`endpoint` is the collector's URL, such as http://127.0.0.1:4318; `/v1/traces` is added where no path is.

        Of requests without a sampled parent, `sampled_fraction` are traced. Raises `MissingExtra` or `UsageError`.
        """
        address = _address(endpoint)
        try:
            self._provider = _provider(address, sampled_fraction)
        except ImportError as error:  # the API alone is often there, brought by other libraries
            install = extras.install_command("opentelemetry")
            raise MissingExtra(
                f"tracing needs {error.name}, which is not installed; install it with: {install}"
            ) from error
        self._tracer = self._provider.get_tracer("tightship.serve", tightship.__version__)

    def start(self, name: str, headers: Mapping[str, str]) -> Span:
        """Begin the span of a request; `headers` may hold `traceparent` and `tracestate`, in lower case."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(headers))
        return self._tracer.start_span(name, context=parent, kind=SpanKind.SERVER)

    def end(self, span: Span, failure: str = "", **attributes: str | int | float) -> None:
        """End a request's span, with the message of its failure if it failed."""
        from opentelemetry.trace import Status, StatusCode

        for name, value in attributes.items():
            span.set_attribute(name.replace("__", "."), value)
        if failure:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end()

    def close(self) -> None:
        """Send what is left, within a few seconds."""
        self._provider.shutdown()


def _address(endpoint: str) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"{endpoint!r} is no address of an OTLP collector; expected one like http://127.0.0.1:4318")
    return endpoint if parts.path.strip("/") else endpoint.rstrip("/") + PATH


def _provider(address: str, sampled_fraction: float) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    described = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME", "tightship"),
        "service.version": tightship.__version__,
        "service.instance.id": str(os.getpid()),
    }
    sampler = ParentBased(TraceIdRatioBased(sampled_fraction))
    provider = TracerProvider(sampler=sampler, resource=Resource.create(described), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address, timeout=5)))
    return provider
