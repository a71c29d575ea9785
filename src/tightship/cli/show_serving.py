"""What a server tells when it begins to answer."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tightship.serve.supervisor import Running

__all__ = ["running"]


def running(running: Running) -> RenderableType:
    """Draw addresses, models, workers and, at the first start, where the administrator's key is."""
    settings = running.settings
    url = settings.url()
    table = Table.grid(padding=(0, 2))
    table.add_row("console", f"[link={url}]{url}/[/link]")
    table.add_row("REST", f"{url}/v2  [dim](OpenAPI: {url}/openapi.json, metrics: {url}/metrics)[/dim]")
    if settings.grpc_port is not None:
        table.add_row("gRPC", f"{_host(settings.host)}:{settings.grpc_port}")
    table.add_row("models", ", ".join(running.models) or "none yet; load one: POST /v2/repository/models/NAME/load")
    table.add_row("workers", str(settings.workers))
    table.add_row("state", str(settings.state))
    if running.new_admin_key is not None:
        table.add_row("admin key", f"{running.new_admin_key}  [dim](new; readable by you alone)[/dim]")
    return Group(Text("tightship serves; Ctrl-C ends it", style="bold"), table)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
