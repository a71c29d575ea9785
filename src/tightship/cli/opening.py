"""Options of every command that opens packages: what opens a seal, and whose signature counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

__all__ = ["STAGING", "TRUST_CONFIG", "keys_options", "opening_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

STAGING = click.option("--staging", is_flag=True, help="Sigstore's staging service instead of the public one.")
TRUST_CONFIG = click.option("--trust-config", metavar="FILE", help="Another Sigstore: its roots and services, as JSON.")

_OPENING = (
    click.option("--key", metavar="KEY", help="Opens a sealed package: NAME.key, env:NAME, fd:N or a pkcs11: URI."),
    click.option(
        "--passphrase-file", metavar="FILE", help="Passphrase of --key, or of the package where there is none."
    ),
)
_TRUSTING = (
    click.option(
        "--trust",
        multiple=True,
        metavar="FILE",
        help="NAME.pub, or ROOT.pem of certificates: one of them signed.",
    ),
    click.option("--identity", metavar="NAME", help="Who signed through Sigstore: an e-mail address or a URI."),
    click.option("--identity-provider", metavar="URL", help="Who vouches for --identity."),
    TRUST_CONFIG,
    STAGING,
    click.option("--offline", is_flag=True, help="Take Sigstore's roots as installed; ask nobody for newer ones."),
)


def keys_options(command: Command) -> Command:
    """Add the options, and give the command what they say as one argument, `keys`."""

    @wraps(command)
    def with_keys(
        *,
        key: str | None,
        passphrase_file: str | None,
        trust: tuple[str, ...],
        identity: str | None,
        identity_provider: str | None,
        trust_config: str | None,
        staging: bool,
        offline: bool,
        **others: Any,
    ) -> Any:
        from tightship.package.opening import Identity, Keys, Sigstore

        service = Sigstore(staging, trust_config, offline)
        expected = None
        if identity is not None or identity_provider is not None:
            expected = Identity(identity or "", identity_provider or "", service)
        return command(keys=Keys(key, passphrase_file, trust, expected), **others)

    return _with(with_keys, (*_OPENING, *_TRUSTING))  # type: ignore[no-any-return]


def opening_options(command: Command) -> Command:
    """Add the options that open a seal alone, and give the command what they say as one argument, `keys`."""

    @wraps(command)
    def with_keys(*, key: str | None, passphrase_file: str | None, **others: Any) -> Any:
        from tightship.package.opening import Keys

        return command(keys=Keys(key, passphrase_file), **others)

    return _with(with_keys, _OPENING)  # type: ignore[no-any-return]


def _with(command: Any, options: tuple[Callable[[Any], Any], ...]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
