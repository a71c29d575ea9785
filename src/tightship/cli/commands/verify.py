"""`tightship verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options

if TYPE_CHECKING:
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("verify", short_help="Check the signature of a package and the digest of every file.")
@click.argument("package")
@keys_options
@output.json_option
def command(package: str, keys: Keys, as_json: bool) -> None:
    """Check that PACKAGE is whole, and with --trust that one of those keys signed it.

    A sealed package needs no --key for that: the signature is over what is sealed. Ends with 11 where it is damaged,
    12 where the signature is missing, wrong or not trusted, 13 where the key does not open it.

    \b
    tightship verify model.ship
    tightship verify model.ship --trust signer.pub
    tightship verify model.ship --trust signer.pub --key receiver.key
    """
    from tightship.api import packing
    from tightship.cli import show_package

    found = packing.verify(package, keys)
    output.answer(found, as_json, lambda: show_package.verification(found))
