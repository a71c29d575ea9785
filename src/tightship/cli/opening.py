"""Options of every command that opens packages: what opens a seal, and whose signature counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

__all__ = ["keys_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--key", metavar="KEY", help="Opens a sealed package: NAME.key, env:NAME, fd:N or a pkcs11: URI."),
    click.option(
        "--passphrase-file", metavar="FILE", help="Passphrase of --key, or of the package where there is none."
    ),
    click.option(
        "--trust",
        multiple=True,
        metavar="FILE",
        help="NAME.pub, or ROOT.pem of certificates: one of them signed.",
    ),
)


def keys_options(command: Command) -> Command:
    """Add the options, and give the command what they say as one argument, `keys`."""

    @wraps(command)
    def with_keys(*, key: str | None, passphrase_file: str | None, trust: tuple[str, ...], **others: Any) -> Any:
        from tightship.api.opening import Keys

        return command(keys=Keys(key, passphrase_file, trust), **others)

    wrapped: Any = with_keys
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]
