"""An authority of timestamps (RFC 3161): OpenSSL's, with a certificate under the root of the others."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.package.local_sigstore.authority import Authority

CONFIG = """[tsa]
default_tsa = here
[here]
serial = {folder}/serial
default_policy = 1.2.3.4
signer_digest = sha256
digests = sha256
ess_cert_id_alg = sha256
"""


class Timestamps:
    """Answers queries, from files in a folder."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._folder, key = folder, ec.generate_private_key(ec.SECP256R1())
        self.certificate = authority.timestamper(key.public_key())
        (folder / "tsa.conf").write_text(CONFIG.format(folder=folder))
        (folder / "serial").write_text("01")
        (folder / "tsa.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        (folder / "tsa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def answer(self, query: bytes) -> bytes:
        """A signed timestamp of now."""
        at = self._folder
        (at / "query").write_bytes(query)
        words = ["-queryfile", "query", "-signer", "tsa.pem", "-inkey", "tsa.key", "-out", "reply"]
        command = ["openssl", "ts", "-reply", "-config", "tsa.conf", *words]
        subprocess.run(command, cwd=at, check=True, capture_output=True, timeout=60)
        return (at / "reply").read_bytes()
