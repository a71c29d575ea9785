"""How a registry may be reached: with TLS or without, whose certificate, as whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tightship.errors import UsageError

__all__ = ["Access"]

MAX_PASSWORD = 64 << 10


@dataclass(frozen=True)
class Access:
    """`insecure` allows plain http (a loopback host without `ca` is spoken to so by itself).

    `ca` is a PEM file of the authorities to trust in place of the system's. Without `username` the credentials that
    `docker login` left in `~/.docker/config.json`, or in the credential helper that it names, are used.
    """

    insecure: bool = False
    ca: Path | None = None
    username: str = ""
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.insecure and self.ca is not None:
            raise UsageError("--insecure is for registries without TLS and --ca for those with it; give one of them")
        if bool(self.username) != bool(self.password):
            raise UsageError("a user name and a password go together; give --username and --password-file, or neither")
        if ":" in self.username:
            raise UsageError("a user name cannot hold a colon (RFC 7617)")
        if self.ca is not None and not self.ca.is_file():
            raise UsageError(f"--ca {self.ca}: no such file; expected certificates in PEM form")

    @staticmethod
    def read_password(path: Path | None) -> str:
        """Return the first line of a password file, or an empty string for None. Raises `UsageError`."""
        if path is None:
            return ""
        try:
            with path.open(encoding="utf-8") as file:
                return file.readline(MAX_PASSWORD).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--password-file {path} cannot be read: {error}") from error
