"""`tightship formats`."""

from __future__ import annotations

import click

from tightship.cli import output

__all__ = ["command"]


@click.command("formats", short_help="List what can be read, written and run here, and what is missing for more.")
@output.json_option
def command(as_json: bool) -> None:
    """List the formats: what can be read, written and run on this machine, and what is missing for more.

    \b
    tightship formats
    """
    from tightship import api
    from tightship.cli import show

    rows = api.list_formats()
    output.answer(rows, as_json, lambda: show.formats(rows))
