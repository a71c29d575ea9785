"""`tightship doctor`."""

from __future__ import annotations

import click

from tightship.cli import output

__all__ = ["command"]


@click.command("doctor", short_help="Say what this machine has and can do.")
@output.json_option
def command(as_json: bool) -> None:
    """Say which engines and extras are here, what each missing one would give, and what the processor can do."""
    from tightship import api
    from tightship.cli import show

    found = api.doctor()
    output.answer(found, as_json, lambda: show.doctor(found))
