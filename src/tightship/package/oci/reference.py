"""Where a package lies in a registry: `oci://host[:port]/repository[:tag][@sha256:...]`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from tightship.errors import UsageError

__all__ = ["DIGEST", "Reference"]

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DEFAULT_TAG = "latest"

_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_FORM = re.compile(
    r"oci://(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?)"
    rf"/(?P<repository>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    rf"(?:@(?P<digest>{DIGEST.pattern}))?"
)


@dataclass(frozen=True)
class Reference:
    """One package of one registry, by tag, by digest, or both; the grammar of names is the OCI distribution spec's."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `oci://host/repository:tag`; without tag and digest the tag is `latest`. Raises `UsageError`."""
        found = _FORM.fullmatch(text)
        if found is None or len(found["repository"]) > 255:
            raise UsageError(
                f"{text!r} names no place in a registry; expected oci://host[:port]/repository[:tag][@sha256:...], "
                "with the repository in lower case"
            )
        digest = found["digest"] or ""
        return cls(found["host"], found["repository"], found["tag"] or ("" if digest else DEFAULT_TAG), digest)

    @property
    def host_name(self) -> str:
        """The host without its port."""
        return self.host[1:].partition("]")[0] if self.host.startswith("[") else self.host.partition(":")[0]

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, by its name alone: nothing is looked up."""
        if self.host_name == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host_name).is_loopback
        except ValueError:
            return False

    def pinned(self, digest: str) -> str:
        """This place by the digest of its manifest: what always gives the same bytes."""
        return f"oci://{self.host}/{self.repository}@{digest}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"oci://{self.host}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"
