"""`tightship serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options
from tightship.errors import UsageError

if TYPE_CHECKING:
    from tightship.package.opening import Keys
    from tightship.serve.settings import ServeSettings
    from tightship.serve.tls import TlsFiles

__all__ = ["command"]

FILE = click.Path(path_type=Path)
PORT = click.IntRange(0, 65535)
POSITIVE = click.IntRange(min=1)


@click.command("serve", short_help="Serve packages and models over HTTP and gRPC.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need keys or --open."
)
@click.option("--http-port", type=PORT, default=8000, show_default=True, help="Port of HTTP; 0: a free one.")
@click.option("--grpc-port", type=PORT, default=8001, show_default=True, help="Port of gRPC; 0: a free one.")
@click.option("--no-grpc", is_flag=True, help="HTTP alone.")
@click.option("--workers", type=POSITIVE, default=1, show_default=True, help="Processes that answer.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Of an engine in a worker; 0: as the plan says.")
@click.option("--engine", default="", metavar="NAME", help="Run on this engine [that of the model's plan or format].")
@click.option("--state", type=FILE, metavar="DIR", help="Folder of the server's state [one per --http-port].")
@click.option("--max-batch", type=POSITIVE, default=32, show_default=True, help="Items that run together at most.")
@click.option("--max-queue", type=POSITIVE, default=256, show_default=True, help="Requests that wait for one model.")
@click.option("--deadline", "deadline_s", type=click.FloatRange(min=0.001), default=30.0, show_default=True,
              help="Seconds a request may take that names no deadline.")  # fmt: skip
@click.option("--max-body", "max_body_mib", type=click.FloatRange(min=0.01), default=64.0, show_default=True,
              help="MiB of a request.")  # fmt: skip
@click.option("--drain", "drain_s", type=click.FloatRange(min=0), default=15.0, show_default=True,
              help="Seconds for requests under way when the server ends.")  # fmt: skip
@click.option("--tls-cert", type=FILE, metavar="FILE", help="Certificate chain, PEM: HTTPS and TLS for gRPC.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="Its private key, PEM.")
@click.option("--tls-clients", type=FILE, metavar="FILE", help="Roots of clients' certificates: mutual TLS.")
@click.option("--open", "is_open", is_flag=True, help="Let everybody ask for inference, also from other machines.")
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
              help="Answer as this name too; *: as any. Repeatable [localhost; any on another --host].")  # fmt: skip
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
              show_default=True, help="debug: a line per request.")  # fmt: skip
@click.option("--log-json", is_flag=True, help="The log as JSON lines.")
@click.option("--cluster", is_flag=True, help="On a Ray cluster, $RAY_ADDRESS or this machine's: --workers replicas.")
@click.option("--tracing", default="", metavar="URL", help="Send OpenTelemetry spans to this collector (OTLP/HTTP).")
@keys_options
def command(
    models: tuple[str, ...],
    host: str,
    http_port: int,
    grpc_port: int,
    no_grpc: bool,
    workers: int,
    threads: int,
    engine: str,
    state: Path | None,
    max_batch: int,
    max_queue: int,
    deadline_s: float,
    max_body_mib: float,
    drain_s: float,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_clients: Path | None,
    is_open: bool,
    allowed_hosts: tuple[str, ...],
    log_level: str,
    log_json: bool,
    cluster: bool,
    tracing: str,
    keys: Keys,
) -> None:
    """Serve packages (.ship) and model files: the Open Inference Protocol v2 over HTTP and gRPC, and a console at /.

    What was loaded or rolled out while the server ran is in its state folder, and outlives a restart with the same
    command. Ctrl-C or SIGTERM ends it after the requests under way.

    \b
    tightship serve model.ship
    tightship serve a.ship b.onnx --workers 4 --trust signer.pub
    curl -d '{"inputs": [...]}' http://127.0.0.1:8000/v2/models/model/infer
    """
    from tightship.api import serving
    from tightship.cli import show_serving
    from tightship.serve.settings import Limits, ServeSettings, default_state

    limits = Limits(
        max_queue=max_queue,
        max_batch=max_batch,
        deadline_ms=deadline_s * 1e3,
        max_body_bytes=int(max_body_mib * 2**20),
        drain_s=drain_s,
    )
    settings = ServeSettings(
        state or default_state(http_port),
        models,
        host,
        http_port,
        None if no_grpc else grpc_port,
        workers,
        engine,
        threads,
        keys,
        limits,
        _tls(tls_cert, tls_key, tls_clients),
        is_open,
        log_level,
        log_json,
        tracing,
        allowed_hosts,
    )
    if cluster:
        _on_cluster(settings)
        return
    serving.serve(settings, lambda running: output.show(show_serving.running(running)))


def _on_cluster(settings: ServeSettings) -> None:
    from tightship.api.clustering import serve_cluster
    from tightship.cli import show_cluster

    serve_cluster(settings, lambda running: output.show(show_cluster.running(running)))


def _tls(certificate: Path | None, key: Path | None, clients: Path | None) -> TlsFiles | None:
    from tightship.serve.tls import TlsFiles

    if certificate is None and key is None and clients is None:
        return None
    if certificate is None or key is None:
        raise UsageError("TLS needs --tls-cert and --tls-key, both")
    return TlsFiles(certificate, key, clients)
