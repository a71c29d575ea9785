"""`tightship rekey`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options

if TYPE_CHECKING:
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("rekey", short_help="Change who can open a sealed package, without touching its payload.")
@click.argument("package")
@click.option("--seal", "seal_to", multiple=True, metavar="NAME.pub", help="A receiver from now on; repeatable.")
@click.option("--new-passphrase-file", "passphrase", metavar="FILE", help="A passphrase that opens it from now on.")
@keys_options
@output.json_option
def command(package: str, seal_to: tuple[str, ...], passphrase: str | None, keys: Keys, as_json: bool) -> None:
    """Make the keys of --seal the receivers of PACKAGE, in place of those it has; --key is one of those it has.

    The payload and its signature stay as they are, so this takes no time. Who could open it before may have kept the
    key to this payload: to take that away, open it and pack it anew.

    \b
    tightship rekey model.ship --key receiver.key --seal receiver.pub --seal colleague.pub
    """
    from tightship.api import packing
    from tightship.cli import show_package

    made = packing.rekey(package, keys, seal_to, passphrase)
    output.answer(made, as_json, lambda: show_package.packed(made))
