"""The gRPC server of one worker, on the loop that answers HTTP too; workers share the port by SO_REUSEPORT.

gRPC's core waits for a message as long as its client likes. So calls are taken as streams of one message: the same on
the wire, but ours from their headers on, and once a second those are ended whose message does not come in time. What
drips below that, in headers or pings, ends with its connection, which lives for `connection_age_s`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from tightship.errors import ServeError
from tightship.serve.grpc_service.messages import SERVICE
from tightship.serve.grpc_service.servicer import Answer, Servicer
from tightship.serve.settings import Limits, ServeSettings

if TYPE_CHECKING:
    import grpc.aio

    Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]

__all__ = ["GrpcServer"]

HEADROOM_BYTES = 1 << 16
"""What a message may have beside its tensors: names, shapes, parameters."""

LEAST_RATE = 1_000_000
"""Bytes per second: a message may take `body_timeout_s`, and this much longer for the longest that is allowed."""

MAX_STREAMS = 1024
"""Calls of one connection at once. gRPC's own client holds others back, but not exactly: well above what it needs."""

SWEEP_S = 1.0


class GrpcServer:
    """Made and started inside the running loop. Raises `ServeError` where a port is taken, `UsageError` for TLS."""

    def __init__(self, servicer: Servicer, settings: ServeSettings) -> None:
        import grpc

        self._server: grpc.aio.Server = grpc.aio.server(
            options=_options(settings), maximum_concurrent_rpcs=settings.limits.max_connections
        )
        self._messages = _Messages(settings.limits)
        self._sweeping: asyncio.Task[None] | None = None
        answers = {name: self._messages.before(answer) for name, answer in servicer.methods().items()}
        handlers = {name: grpc.stream_unary_rpc_method_handler(answer) for name, answer in answers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = self._listen(settings)

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()
        self._sweeping = asyncio.get_running_loop().create_task(self._messages.sweep())

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, finish those being answered within `grace_s` seconds, cancel what is left."""
        await self._server.stop(grace_s)
        if self._sweeping is not None:
            self._sweeping.cancel()

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


class _Messages:
    """Waits for the message of each call, and ends calls whose message does not come in time."""

    def __init__(self, limits: Limits) -> None:
        self._patience_s = limits.body_timeout_s + limits.max_body_bytes / LEAST_RATE
        self._waiting: dict[Context, float] = {}  # since when, the oldest first

    def before(self, answer: Answer) -> Callable[[object, Context], Awaitable[bytes]]:
        """Return a handler that reads the one message of a call and has it answered."""
        import grpc

        async def answered(_messages: object, context: Context) -> bytes:
            self._waiting[context] = time.monotonic()
            try:
                message = await context.read()
            finally:
                self._waiting.pop(context, None)
            if message is grpc.aio.EOF:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
            return await answer(message, context)

        return answered

    async def sweep(self) -> None:
        """Look once a second; until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            late = time.monotonic() - self._patience_s
            for context in [context for context, since in self._waiting.items() if since < late]:
                await self._end(context)

    async def _end(self, context: Context) -> None:
        import grpc

        self._waiting.pop(context, None)
        why = f"the message did not arrive within {self._patience_s:.0f} s"
        with suppress(grpc.RpcError, grpc.aio.AbortError, grpc.aio.UsageError, grpc.aio.InternalError):
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, why)  # what reads the message ends too


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
        ("grpc.server_handshake_timeout_ms", int(limits.head_timeout_s * 1e3)),
        ("grpc.max_connection_age_ms", int(limits.connection_age_s * 1e3)),
        ("grpc.max_connection_age_grace_ms", int(limits.connection_grace_s * 1e3)),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
    ]
