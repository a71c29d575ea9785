"""`tightship pull`."""

from __future__ import annotations

from pathlib import Path

import click

from tightship.cli import output
from tightship.cli.access import access, access_options, tell
from tightship.cli.progress import progress_bars

__all__ = ["command"]


@click.command("pull", short_help="Fetch a package from a registry: whole and as pinned, or not at all.")
@click.argument("place", metavar="oci://HOST/REPOSITORY[:TAG|@DIGEST]")
@click.option("-o", "--output", "file", required=True, type=click.Path(path_type=Path), metavar="OUT")
@click.option("--digest", default="", metavar="sha256:...", help="The manifest to expect, as push printed it.")
@access_options
@output.json_option
def command(
    place: str,
    file: Path,
    digest: str,
    insecure: bool,
    ca: Path | None,
    username: str,
    password_file: Path | None,
    as_json: bool,
) -> None:
    """Fetch a package from a registry to the file OUT, which appears whole or not at all.

    Digest and size are checked before the file has its name; with a digest in the place or by --digest the manifest is
    too. A pull that was killed leaves a partial file beside OUT, and the same command continues from it.
    The digest says that nothing was changed on the way; who made the package, `tightship verify` says.

    \b
    tightship pull oci://registry.example.com/team/model:1.0 -o model.ship
    tightship pull oci://localhost:5000/model@sha256:9f86d081... -o model.ship
    """
    from tightship import api

    how = access(insecure, ca, username, password_file)
    with progress_bars(quiet=as_json) as progress:
        pulled = api.pull(place, file, digest, how, progress)
    already = f", {pulled.resumed_bytes:,} were here already" if pulled.resumed_bytes else ""
    tell(pulled, as_json, f"{pulled.package}: {pulled.size_bytes:,} bytes{already}\npinned: {pulled.pinned}")
