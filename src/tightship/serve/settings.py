"""How a server is to run: one value, given to every worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tightship.package.opening import NO_KEYS, Keys
from tightship.serve.tls import TlsFiles

__all__ = ["Limits", "ServeSettings", "database_path", "default_state"]

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request, one connection and one model's queue may take of a worker.

    `max_batch` is in items that run together, `max_queue` in requests that wait for one model; `deadline_ms` holds for
    requests that name none; `body_timeout_s` and `head_timeout_s` for a whole body and the headers before it. A
    connection of gRPC takes no new calls after `connection_age_s`, and ends with those under way, `connection_grace_s`
    later at most.
    """

    max_queue: int = 256
    max_batch: int = 32
    deadline_ms: float = 30_000.0
    max_body_bytes: int = 64 * MIB
    max_head_bytes: int = 64 << 10
    max_upload_bytes: int = 16 << 30
    max_connections: int = 4096
    body_timeout_s: float = 30.0
    head_timeout_s: float = 10.0
    keep_alive_s: float = 75.0
    connection_age_s: float = 3600.0
    connection_grace_s: float = 600.0
    drain_s: float = 15.0


@dataclass(frozen=True)
class ServeSettings:
    """What is served, where, and by how many workers.

    `state` is the folder of desired state, packages and keys. `threads` 0 shares the cores among the workers.
    `grpc_port` None leaves gRPC out; port 0 takes a free one. `open_to_infer` lets everybody ask for inference,
    `tracing` is where OpenTelemetry's spans go. `keys` opens packages and says whose signature counts. `allowed_hosts`
    are names by which browsers may ask, see `hosts`.
    """

    state: Path
    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int | None = 8001
    workers: int = 1
    engine: str = ""
    threads: int = 0
    keys: Keys = NO_KEYS
    limits: Limits = field(default_factory=Limits)
    tls: TlsFiles | None = None
    open_to_infer: bool = False
    log_level: str = "info"
    log_json: bool = False
    tracing: str = ""
    allowed_hosts: tuple[str, ...] = ()

    def threads_per_worker(self) -> int:
        """Threads of an engine in one worker; 0 leaves it to the plan of the package."""
        if self.threads or self.workers == 1:
            return self.threads
        from tightship.core import processor

        return max(1, processor.n_cores() // self.workers)

    def url(self) -> str:
        """Where a browser on this machine finds the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"{'http' if self.tls is None else 'https'}://{host}:{self.http_port}"


def default_state(http_port: int) -> Path:
    """Return the folder of the state where none is named."""
    import platformdirs

    return Path(platformdirs.user_state_dir("tightship")) / f"serve-{http_port}"


def database_path(state: Path) -> Path:
    """Return where a server's database lies in the folder of its state."""
    return state / "state.sqlite"
