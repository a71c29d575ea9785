"""`tightship diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options

if TYPE_CHECKING:
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("diff", short_help="Say what differs between two packages.")
@click.argument("first")
@click.argument("second")
@keys_options
@output.json_option
def command(first: str, second: str, keys: Keys, as_json: bool) -> None:
    """Say what differs between the packages FIRST and SECOND: facts of the manifest, metrics, files.

    \b
    tightship diff old.ship new.ship
    tightship diff old.ship new.ship --json
    """
    from tightship.api import packing
    from tightship.cli import show_package

    found = packing.diff(first, second, keys)
    output.answer(found, as_json, lambda: show_package.differences(first, second, found))
