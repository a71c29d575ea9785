"""TLS and mutual TLS from PEM files, the same for HTTP and gRPC; nothing older than TLS 1.2 is spoken."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightship.errors import UsageError

if TYPE_CHECKING:
    import grpc

__all__ = ["TlsFiles"]


@dataclass(frozen=True)
class TlsFiles:
    """The server's certificate chain and private key; with `clients`, only who shows a certificate signed by those."""

    certificate: Path
    key: Path
    clients: Path | None = None

    @property
    def mutual(self) -> bool:
        """Whether clients prove who they are by a certificate."""
        return self.clients is not None

    def check(self) -> None:
        """Raise `UsageError` where the files cannot serve: unreadable, not PEM, or a key of another certificate."""
        self.context()

    def context(self) -> ssl.SSLContext:
        """Return what HTTP connections are wrapped in. Raises `UsageError` as `check` does."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        try:
            # A key behind a passphrase is refused: asking for it would stop a server that nobody watches.
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            if self.clients is not None:
                context.load_verify_locations(self.clients)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:
            raise UsageError(
                f"TLS cannot be set up from {self._names()}: {error}; expected a PEM certificate (its chain after it) "
                "and its unencrypted PEM private key"
            ) from error
        return context

    def uvicorn_options(self) -> dict[str, Any]:
        """Return the options of `uvicorn.Config` that turn this TLS on."""
        return {"ssl_context_factory": lambda config, default: self.context()}

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return what gRPC's secure port takes. Raises `UsageError` as `check` does."""
        import grpc

        self.check()
        clients = None if self.clients is None else self.clients.read_bytes()
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], clients, require_client_auth=clients is not None)

    def _names(self) -> str:
        return " and ".join(str(path) for path in (self.certificate, self.key, self.clients) if path is not None)
