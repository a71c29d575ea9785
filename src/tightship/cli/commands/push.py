"""`tightship push`."""

from __future__ import annotations

from pathlib import Path

import click

from tightship.cli import output
from tightship.cli.access import access, access_options, tell
from tightship.cli.progress import progress_bars

__all__ = ["command"]


@click.command("push", short_help="Put a package into a registry, and print the digest that pins it.")
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("place", metavar="oci://HOST/REPOSITORY:TAG")
@access_options
@output.json_option
def command(
    package: Path,
    place: str,
    insecure: bool,
    ca: Path | None,
    username: str,
    password_file: Path | None,
    as_json: bool,
) -> None:
    """Put PACKAGE into a registry under a tag, and print the digest that pins it.

    The digest is that of the manifest (CNCF ModelPack); whoever pulls by it gets these bytes or an error. What the
    registry has already is not sent again, and a push that was killed continues where the registry allows it.

    \b
    tightship push model.ship oci://registry.example.com/team/model:1.0
    tightship push model.ship oci://localhost:5000/model --username ann --password-file password.txt
    """
    from tightship import api

    how = access(insecure, ca, username, password_file)
    with progress_bars(quiet=as_json) as progress:
        pushed = api.push(package, place, how, progress=progress)
    sent = f"{pushed.sent_bytes:,} of {pushed.size_bytes:,} bytes were sent"
    tell(pushed, as_json, f"{pushed.reference}\n{sent}\npinned: {pushed.pinned}")
