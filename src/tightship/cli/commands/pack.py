"""`tightship pack`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.progress import progress_bars
from tightship.cli.signing import signing_options
from tightship.errors import UsageError

if TYPE_CHECKING:
    from tightship.package.keyless import Keyless

__all__ = ["command"]


@click.command("pack", short_help="Put models and their evidence into one file, signed and sealed.")
@click.argument("models", nargs=-1, required=True)
@click.option("-o", "--output", "place", required=True, metavar="NAME.ship", help="The package to write.")
@click.option("--name", default="", help="What the model is called [the name of the file].")
@click.option("--version", default="1", show_default=True, help="Its version.")
@click.option("--licence", default="", metavar="SPDX", help="Its licence, such as Apache-2.0.")
@click.option("--intended-use", default="", metavar="TEXT", help="What it is for, in a sentence.")
@click.option("--sign", "sign_with", metavar="NAME.key", help="Sign with this key.")
@click.option("--sign-passphrase-file", "key_passphrase", metavar="FILE", help="Passphrase of the key of --sign.")
@signing_options
@click.option(
    "--seal", "seal_to", multiple=True, metavar="NAME.pub", help="Only this receiver can open it; repeatable."
)
@click.option("--passphrase-file", "passphrase", metavar="FILE", help="Seal it; this passphrase opens it.")
@click.option("--processing", "declaration", metavar="FILE.toml", help="How a picture, text or sound becomes inputs.")
@click.option("--labels", metavar="FILE", help="Names of the classes that it tells apart, one per line.")
@click.option("--tokenizer", metavar="FILE", help="The tokenizer.json that makes its inputs of a text.")
@output.json_option
def command(
    models: tuple[str, ...],
    place: str,
    name: str,
    version: str,
    licence: str,
    intended_use: str,
    sign_with: str | None,
    key_passphrase: str | None,
    certificates: str | None,
    keyless: Keyless | None,
    seal_to: tuple[str, ...],
    passphrase: str | None,
    declaration: str | None,
    labels: str | None,
    tokenizer: str | None,
    as_json: bool,
) -> None:
    """Put MODELS, for one or more targets, and the evidence beside them into one file.

    MODELS are model files, or folders that optimize wrote. Unless it is sealed, the same inputs give the same bytes.

    \b
    tightship pack out -o model.ship
    tightship pack model.onnx model.xml -o model.ship --name digits --licence Apache-2.0
    tightship pack out -o model.ship --sign signer.key --seal receiver.pub
    tightship pack out -o model.ship --sign signer.key --certificate chain.pem
    tightship pack model.onnx -o model.ship --processing picture.toml --labels labels.txt
    """
    from tightship.api import packing
    from tightship.cli import show_package

    if keyless and sign_with:
        raise UsageError("sign with a key (--sign NAME.key) or through Sigstore (--sigstore); give one of them")
    with progress_bars(quiet=as_json) as progress:
        made = packing.pack(
            models,
            place,
            name,
            version,
            licence,
            intended_use,
            keyless or sign_with,
            seal_to,
            passphrase,
            key_passphrase,
            progress,
            certificates,
            packing.ProcessingFiles(declaration, labels, tokenizer),
        )
    output.answer(made, as_json, lambda: show_package.packed(made))
