"""Options of the commands that sign: certificates of a key, or Sigstore in place of a key."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import click

from tightship.cli.opening import STAGING, TRUST_CONFIG
from tightship.errors import UsageError

__all__ = ["signing_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--certificate", "certificates", metavar="FILE.pem", help="The signer's certificate, and its chain."),
    click.option("--sigstore", is_flag=True, help="Sign through Sigstore, as who you are at an identity provider."),
    click.option(
        "--identity-token",
        metavar="TOKEN",
        help="Who you are, for --sigstore: the token, - (standard input), env:NAME, fd:N or a file  "
        "[default: that of the surroundings, else a browser asks].",
    ),
    TRUST_CONFIG,
    STAGING,
)


def signing_options(command: Command) -> Command:
    """Add the options; the command gets `certificates`, and `keyless` where it shall sign through Sigstore."""

    @wraps(command)
    def with_signer(
        *, sigstore: bool, identity_token: str | None, trust_config: str | None, staging: bool, **others: Any
    ) -> Any:
        from tightship.package.keyless import Keyless, Sigstore

        if not sigstore and (identity_token is not None or trust_config is not None or staging):
            raise UsageError("--identity-token, --trust-config and --staging are for --sigstore; add it")
        ask = partial(click.echo, err=True) if sys.stdin.isatty() else None
        keyless = Keyless(identity_token, Sigstore(staging, trust_config), ask) if sigstore else None
        return command(keyless=keyless, **others)

    wrapped: Any = with_signer
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]
