"""`tightship sign`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import opening_options
from tightship.cli.signing import signing_options
from tightship.errors import UsageError

if TYPE_CHECKING:
    from tightship.package.keyless import Keyless
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("sign", short_help="Sign a package that is there.")
@click.argument("package")
@click.option("--with", "signer", metavar="NAME.key", help="The key to sign with.")
@click.option("--sign-passphrase-file", "passphrase", metavar="FILE", help="Passphrase of the key of --with.")
@signing_options
@opening_options
@output.json_option
def command(
    package: str,
    signer: str | None,
    passphrase: str | None,
    certificates: str | None,
    keyless: Keyless | None,
    keys: Keys,
    as_json: bool,
) -> None:
    """Sign PACKAGE, in place of the signature that it has.

    Its digests are checked first; those of a sealed one where --key opens it.

    \b
    tightship sign model.ship --with signer.key
    tightship sign model.ship --with signer.key --certificate chain.pem
    tightship sign model.ship --sigstore
    """
    from tightship.api import packing
    from tightship.cli import show_package

    chosen = keyless or signer
    if chosen is None or (keyless and signer):
        raise UsageError("sign with a key (--with NAME.key) or through Sigstore (--sigstore); give one of them")
    made = packing.sign(package, chosen, passphrase, keys, certificates)
    output.answer(made, as_json, lambda: show_package.packed(made))
