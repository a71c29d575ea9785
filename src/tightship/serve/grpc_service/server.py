"""The gRPC server of one worker, on the loop that answers HTTP too; workers share the port by SO_REUSEPORT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tightship.errors import ServeError
from tightship.serve.grpc_service.messages import SERVICE
from tightship.serve.grpc_service.servicer import Servicer
from tightship.serve.settings import ServeSettings

if TYPE_CHECKING:
    import grpc.aio

__all__ = ["GrpcServer"]

HEADROOM_BYTES = 1 << 16
"""What a message may have beside its tensors: names, shapes, parameters."""


class GrpcServer:
    """Made and started inside the running loop. Raises `ServeError` where a port is taken, `UsageError` for TLS."""

    def __init__(self, servicer: Servicer, settings: ServeSettings) -> None:
        import grpc

        self._server: grpc.aio.Server = grpc.aio.server(
            options=_options(settings), maximum_concurrent_rpcs=settings.limits.max_connections
        )
        handlers = {name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in servicer.methods().items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = self._listen(settings)

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, finish those being answered within `grace_s` seconds, cancel what is left."""
        await self._server.stop(grace_s)

    def _listen(self, settings: ServeSettings) -> int:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port or 0}"
        try:
            if settings.tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, settings.tls.grpc_credentials())
        except RuntimeError as error:
            raise ServeError(f"gRPC cannot listen on {address}: {error}; choose another --grpc-port") from error
        if not port:
            raise ServeError(f"gRPC cannot listen on {address}: it is taken; choose another --grpc-port")
        return int(port)


def _options(settings: ServeSettings) -> list[tuple[str, Any]]:
    limits = settings.limits
    return [
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_receive_message_length", limits.max_body_bytes + HEADROOM_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.max_head_bytes),
        # Clients that went away without a word are noticed, and pings that only cost are refused.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.max_connection_idle_ms", int(limits.keep_alive_s * 1e3) * 8),
    ]
