"""`tightship open`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options

if TYPE_CHECKING:
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("open", short_help="Write the files of a package into a folder.")
@click.argument("package")
@click.option("-o", "--output", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR")
@keys_options
@output.json_option
def command(package: str, folder: Path, keys: Keys, as_json: bool) -> None:
    """Write every file of PACKAGE, checked, into the folder DIR.

    What was sealed lies readable on the disk then; run, bench, check and inspect open packages without that.

    \b
    tightship open model.ship -o opened
    tightship open model.ship -o opened --key receiver.key --trust signer.pub
    """
    from tightship.api import packing
    from tightship.cli import show_package

    found = packing.unpack(package, folder, keys)
    output.answer(found, as_json, lambda: show_package.unpacked(found))
