"""What is told when packages answer on a Ray cluster."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tightship.api.clustering import ClusterRunning

__all__ = ["running"]


def running(running: ClusterRunning) -> RenderableType:
    """Draw where it answers, the models, replicas and nodes."""
    table = Table.grid(padding=(0, 2))
    table.add_row("REST", f"{running.url}/v2")
    table.add_row("models", Text(", ".join(running.models)))
    table.add_row("replicas", f"{running.replicas} on {running.nodes} node{'s' if running.nodes > 1 else ''}")
    return Group(Text("tightship serves on Ray; Ctrl-C ends it", style="bold"), table)
