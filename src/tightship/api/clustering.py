"""`serve --cluster`: the same packages on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable

from tightship.serve.cluster import ClusterRunning
from tightship.serve.cluster import serve as serve_on_ray
from tightship.serve.settings import ServeSettings

__all__ = ["ClusterRunning", "serve_cluster"]


def serve_cluster(settings: ServeSettings, on_running: Callable[[ClusterRunning], None], address: str = "") -> None:
    """Serve packages on the Ray cluster at `address`, or that of this machine, or a new one, until SIGTERM or SIGINT.

    `settings.workers` is the number of replicas; there is no state folder, no gRPC and no rollout of ours. Raises
    `MissingExtra`, `UsageError`, `ServeError`, and what opening packages raises.
    """
    serve_on_ray(settings, on_running, address)
