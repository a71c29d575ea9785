"""What commands that talk to a registry share: their options, the `Access` these make, and lines fit to be copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tightship.cli import output

if TYPE_CHECKING:
    from tightship.package.oci import Access

__all__ = ["access", "access_options", "tell"]

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--insecure", is_flag=True, help="Speak http without TLS; a loopback host is allowed to by itself."),
    click.option("--ca", type=click.Path(path_type=Path), metavar="FILE", help="PEM file of authorities to trust."),
    click.option("--username", default="", help="User name  [default: what `docker login` has left]."),
    click.option(
        "--password-file", type=click.Path(path_type=Path), metavar="FILE", help="The password, alone in a file."
    ),
)


def access_options(command: Command) -> Command:
    """Give a command --insecure, --ca, --username and --password-file."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def access(insecure: bool, ca: Path | None, username: str, password_file: Path | None) -> Access:
    """Return how the registry is reached. Raises `UsageError` where the options do not go together."""
    from tightship.package.oci import Access

    return Access(insecure, ca, username, Access.read_password(password_file))


def tell(value: Any, as_json: bool, text: str) -> None:
    """Print `value` as JSON, or lines that no terminal's width breaks: a digest is there to be copied."""
    if as_json:
        output.answer(value, as_json, lambda: text)
    else:
        click.echo(text)
