"""`serve`: answer for packages and model files until told to stop."""

from __future__ import annotations

from collections.abc import Callable

from tightship.core import extras
from tightship.serve.settings import ServeSettings
from tightship.serve.supervisor import Running
from tightship.serve.supervisor import serve as supervise

__all__ = ["Running", "serve"]

NEEDED = ("uvicorn", "httptools", "starlette")


def serve(settings: ServeSettings, on_running: Callable[[Running], None]) -> None:
    """Serve until SIGTERM or SIGINT (Ctrl-C); `on_running` is told once that requests are answered.

    Raises `MissingExtra`, `ServeError` where the server cannot start, and what opening models and packages raises.
    """
    for module in NEEDED:
        extras.check(module, "tightship serve")
    if settings.grpc_port is not None:
        extras.check("grpc", "tightship serve with gRPC (leave it out by --no-grpc)")
    supervise(settings, on_running)
