"""By which names browsers may know this server: a check against DNS rebinding, and against pages of other sites.

Any site can have its name lead to 127.0.0.1, and a browser then takes this server for that site: `Host` still tells the
name. An address cannot be made to lead elsewhere, and passes. `Origin` tells whose page sent a request.
https://www.rfc-editor.org/rfc/rfc9110#section-15.5.20 and https://fetch.spec.whatwg.org/#origin-header
"""

from __future__ import annotations

import ipaddress
import re

from tightship.errors import UsageError
from tightship.serve.access import is_loopback
from tightship.serve.failures import ForeignOrigin, Misdirected
from tightship.serve.settings import ServeSettings

__all__ = ["ANY", "Hosts", "hosts_of"]

ANY = "*"
MAX_KNOWN = 256
MAX_TOLD = 80

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class Hosts:
    """The names that are allowed beside `localhost` and every address. Raises `UsageError` for what is no name."""

    def __init__(self, allowed: tuple[str, ...] = ()) -> None:
        self._allowed = frozenset(_plain(name) for name in allowed)
        self._known: set[bytes | None] = {None}
        for name in self._allowed:
            if not _NAME.fullmatch(name) and not _is_address(name):
                raise UsageError(f"--allowed-host {name!r} is no host name; name it without scheme and port, or say *")

    def check(self, host: bytes | None, origin: bytes | None) -> None:
        """Check the headers `Host` and `Origin` of a request: 0.1 microseconds for a host that came before.

        A request without `Host` comes from no browser. Raises `Misdirected`, and `ForeignOrigin` where a page of
        another origin sent it.
        """
        if host not in self._known:
            self._check_host(host or b"")
        if origin is not None and not self._is_own(origin, host):
            told = origin[:MAX_TOLD].decode("latin-1")
            raise ForeignOrigin(
                f"a page of {told!r} sent this request, and only this server's own pages may; "
                f"start it with --allowed-host {_name(_authority(told))} if that site is trusted"
            )

    def _check_host(self, host: bytes) -> None:
        name = _name(host.decode("latin-1"))
        if not (self._allows(name) or name == "localhost" or name.endswith(".localhost") or _is_address(name)):
            raise Misdirected(
                f"this server is not known as {name[:MAX_TOLD]!r}; ask for localhost or an address, or start it with "
                f"--allowed-host {name[:MAX_TOLD]}"
            )
        if len(self._known) < MAX_KNOWN:
            self._known.add(host)

    def _is_own(self, origin: bytes, host: bytes | None) -> bool:
        authority = _authority(origin.decode("latin-1"))
        same = host is not None and authority.lower() == host.decode("latin-1").lower()
        return bool(authority) and (same or self._allows(_name(authority)))

    def _allows(self, name: str) -> bool:
        return name in self._allowed


def hosts_of(settings: ServeSettings) -> Hosts | None:
    """Return what a server checks, or None for nothing.

    A server for other machines is known by names that nobody here can tell: nothing is checked unless some are named.
    """
    if ANY in settings.allowed_hosts or not (settings.allowed_hosts or is_loopback(settings.host)):
        return None
    return Hosts(settings.allowed_hosts)


def _name(authority: str) -> str:
    """Return the name in `name:port`."""
    name, colon, port = authority.rpartition(":")
    return _plain(name if colon and (port.isdigit() or not port) else authority)


def _plain(name: str) -> str:
    name = name.lower()
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name.removesuffix(".")


def _authority(origin: str) -> str:
    """Return `name:port` of an origin; nothing where it is opaque (`null`)."""
    return origin.partition("://")[2]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
