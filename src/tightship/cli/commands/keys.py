"""`tightship keys new` and `tightship keys show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tightship.cli import output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tightship.api.keying import KeyReport

__all__ = ["command"]

passphrase_option = click.option(
    "--passphrase-file",
    "passphrase",
    metavar="FILE",
    help="Where the passphrase of the key is: FILE, env:NAME or fd:N.",
)


@click.group("keys", short_help="Make the keys that sign and seal packages.")
def command() -> None:
    """Make the keys that sign and seal packages, and say what a key is."""


@command.command("new", short_help="Write a new key pair: NAME.key and NAME.pub.")
@click.option("--type", "kind", required=True, metavar="TYPE", help="What the key is for, see above.")
@click.option("-o", "--output", "name", required=True, metavar="NAME", help="Writes NAME.key (mode 0600) and NAME.pub.")
@passphrase_option
@click.option("--force", is_flag=True, help="Replace keys that are there; what they sealed stays sealed.")
@output.json_option
def new(kind: str, name: str, passphrase: str | None, force: bool, as_json: bool) -> None:
    """Write a new key pair: NAME.key to keep, NAME.pub to give away. TYPE is one of

    \b
    ec-p256          signs; what OpenSSF Model Signing writes and checks
    ed25519          signs
    x25519           receives sealed packages
    mlkem768-x25519  receives, post-quantum and classical at once
    rsa-3072         signs and receives
    rsa-4096         signs and receives

    \b
    tightship keys new --type mlkem768-x25519 -o receiver
    tightship keys new --type ec-p256 -o signer --passphrase-file signer.txt
    """
    from tightship.api import keying

    made = keying.new_key(kind, name, passphrase, force)
    output.answer(made, as_json, lambda: _draw(made))


@command.command("show", short_help="Say what a key is, and its id.")
@click.argument("key", metavar="KEY")
@click.option(
    "-o", "--output", "public", type=click.Path(path_type=Path), metavar="NAME.pub", help="Write the public key."
)
@passphrase_option
@output.json_option
def show(key: str, public: Path | None, passphrase: str | None, as_json: bool) -> None:
    """Say what a key is for, and the id by which packages name it.

    KEY is NAME.pub, NAME.key, env:NAME, fd:N or a PKCS#11 URI.

    \b
    tightship keys show receiver.pub
    tightship keys show 'pkcs11:token=safe;object=signer?pin-source=pin.txt' -o signer.pub
    """
    from tightship.api import keying

    found = keying.show_key(key, passphrase, public)
    output.answer(found, as_json, lambda: _draw(found))


def _draw(report: KeyReport) -> RenderableType:
    from rich.text import Text

    uses = " and ".join(use for use, can in (("signs", report.signs), ("receives", report.receives)) if can)
    lines = [f"{report.kind}, {uses}", f"id: {report.id}"]
    lines += [f"called in signatures: {report.hint}"] if report.hint else []
    if report.private is not None:
        lines.append(f"keep to yourself: {report.private}")
    if report.public is not None:
        lines.append(f"give away: {report.public}")
    return Text("\n".join(lines))
