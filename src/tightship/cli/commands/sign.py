"""`tightship sign`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options

if TYPE_CHECKING:
    from tightship.api.opening import Keys

__all__ = ["command"]


@click.command("sign", short_help="Sign a package that is there.")
@click.argument("package")
@click.option("--with", "signer", required=True, metavar="NAME.key", help="The key to sign with.")
@click.option("--sign-passphrase-file", "passphrase", metavar="FILE", help="Passphrase of the key of --with.")
@click.option("--certificate", "certificates", metavar="FILE.pem", help="The signer's certificate, and its chain.")
@keys_options
@output.json_option
def command(
    package: str, signer: str, passphrase: str | None, certificates: str | None, keys: Keys, as_json: bool
) -> None:
    """Sign PACKAGE, in place of the signature that it has.

    Its digests are checked first; those of a sealed one where --key opens it.

    \b
    tightship sign model.ship --with signer.key
    tightship sign model.ship --with signer.key --certificate chain.pem
    """
    from tightship.api import packing
    from tightship.cli import show_package

    made = packing.sign(package, signer, passphrase, keys, certificates)
    output.answer(made, as_json, lambda: show_package.packed(made))
