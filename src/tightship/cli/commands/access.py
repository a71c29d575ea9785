"""`tightship access add`, `list` and `revoke`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tightship.cli import output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tightship.api.accessing import KeyRow

__all__ = ["command"]

Command = TypeVar("Command", bound=Callable[..., Any])

_state_options = (
    click.option(
        "--state",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The server's state  [default: that of --http-port].",
    ),
    click.option("--http-port", default=8000, show_default=True, help="The server whose default state is meant."),
)


def _of_a_server(command: Command) -> Command:
    for option in reversed(_state_options):
        command = option(command)
    return command


@click.group("access", short_help="Make and revoke API keys of a server.")
def command() -> None:
    """Make, list and revoke the API keys of a server. Changes hold at once, also for a server that runs.

    \b
    tightship access add phone-app --rate 20
    tightship access add release-robot --scope admin
    tightship access revoke phone-app
    """


@command.command("add", short_help="Make an API key and print it, this once.")
@click.argument("name", metavar="NAME")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["infer", "admin"]),
    multiple=True,
    default=("infer",),
    show_default=True,
    help="What it is for; admin may do all.",
)
@click.option("--rate", type=click.FloatRange(min=0), default=0.0, help="Requests per second at most; 0: no limit.")
@click.option("--burst", type=click.FloatRange(min=0), default=0.0, help="Requests at once  [default: a second's].")
@_of_a_server
@output.json_option
def add(
    name: str, scopes: tuple[str, ...], rate: float, burst: float, state: Path | None, http_port: int, as_json: bool
) -> None:
    """Make an API key called NAME and print it. Only its hash is kept: what is lost is replaced, not found again.

    From the first key for inference on, inference needs a key too.
    """
    from tightship.api import accessing

    made = accessing.add_key(_place(state, http_port), name, scopes, rate, burst)
    if as_json:
        output.answer(made, as_json, lambda: made.key)
    else:
        click.echo(made.key)


@command.command("list", short_help="List the API keys, without the keys themselves.")
@_of_a_server
@output.json_option
def list_keys(state: Path | None, http_port: int, as_json: bool) -> None:
    """List the API keys: id, name, scopes, rate and when they were made and revoked."""
    from tightship.api import accessing

    rows = accessing.list_keys(_place(state, http_port))
    output.answer(rows, as_json, lambda: _draw(rows))


@command.command("revoke", short_help="End an API key.")
@click.argument("key", metavar="NAME|ID")
@_of_a_server
@output.json_option
def revoke(key: str, state: Path | None, http_port: int, as_json: bool) -> None:
    """End the API key of this name or id."""
    from tightship.api import accessing

    row = accessing.revoke_key(_place(state, http_port), key)
    output.answer(row, as_json, lambda: f"revoked {row.name} ({row.id})")


def _place(state: Path | None, http_port: int) -> Path:
    from tightship.serve.settings import default_state

    return default_state(http_port) if state is None else state


def _draw(rows: tuple[KeyRow, ...]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return Text("no API key; `tightship access add NAME` makes one")
    table = Table("id", "name", "for", "requests/s", "made", "revoked", box=None)
    for row in rows:
        rate = f"{row.rate_per_s:g}" if row.rate_per_s else "any"
        table.add_row(row.id, Text(row.name), " ".join(row.scopes), rate, row.created, row.revoked)
    return table
