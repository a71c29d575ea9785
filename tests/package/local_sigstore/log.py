"""Rekor's part: a log of what was signed, as a Merkle tree with proofs, signed checkpoints and promises.

RFC 6962, section 2.1 (the tree), https://github.com/sigstore/rekor/blob/main/openapi.yaml (what it answers),
https://github.com/transparency-dev/formats/blob/main/log/README.md (checkpoints)
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.package.local_sigstore.log_key import LogKey, b64, canonical


def in_a_bundle(proof: Mapping[str, Any]) -> dict[str, Any]:
    """A proof as bundles have it; numbers of 64 bits are texts there (ProtoJSON)."""
    return {
        "logIndex": str(proof["logIndex"]),
        "rootHash": b64(bytes.fromhex(proof["rootHash"])),
        "treeSize": str(proof["treeSize"]),
        "hashes": [b64(bytes.fromhex(entry)) for entry in proof["hashes"]],
        "checkpoint": {"envelope": proof["checkpoint"]},
    }


class Log:
    """Rekor: what was signed, in a Merkle tree (RFC 6962, section 2.1)."""

    def __init__(self) -> None:
        self.key = LogKey()
        self.origin = "rekor.test - 1"
        self.bodies: list[bytes] = [canonical({"was": "here before", "number": number}) for number in range(5)]

    def add(self, proposed: dict[str, Any], late: timedelta = timedelta()) -> dict[str, Any]:
        """Take in an entry of kind `dsse`; answer with it and its proof."""
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        (verifier,), (signature,) = content["verifiers"], envelope["signatures"]
        hashes = {
            "envelopeHash": hashlib.sha256(content["envelope"].encode()).hexdigest(),
            "payloadHash": hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest(),
        }
        spec: dict[str, Any] = {name: {"algorithm": "sha256", "value": value} for name, value in hashes.items()}
        spec["signatures"] = [{"signature": signature["sig"], "verifier": verifier}]
        return self.enter(canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}), late)

    def enter(self, body: bytes, late: timedelta = timedelta()) -> dict[str, Any]:
        """Put the body of an entry into the tree; `late` is by how much its time is past now."""
        proof = self._placed(body)
        promised = {
            "body": b64(body),
            "integratedTime": int((datetime.now(UTC) + late).timestamp()),
            "logID": self.key.id.hex(),
            "logIndex": proof["logIndex"] + 1000,  # over all trees that the log has had
        }
        promise = b64(self.key.sign(canonical(promised)))
        found = {**promised, "verification": {"inclusionProof": proof, "signedEntryTimestamp": promise}}
        return {hashlib.sha256(b"\0" + body).hexdigest(): found}

    def add_v2(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Take in an entry as the second version does: no time and no promise, the answer as bundles have it."""
        request = asked["hashedRekordRequestV002"]
        content = {"data": {"algorithm": "SHA2_256", "digest": request["digest"]}, "signature": request["signature"]}
        kind = {"kind": "hashedrekord", "version": "0.0.2"}
        body = canonical({"apiVersion": kind["version"], "kind": kind["kind"], "spec": {"hashedRekordV002": content}})
        proof = self._placed(body)
        return {
            "logIndex": str(proof["logIndex"]),
            "logId": {"keyId": b64(self.key.id)},
            "kindVersion": kind,
            "inclusionProof": in_a_bundle(proof),
            "canonicalizedBody": b64(body),
        }

    def _placed(self, body: bytes) -> dict[str, Any]:
        """Put a body into the tree and prove that it is there."""
        self.bodies.append(body)
        index, size = len(self.bodies) - 1, len(self.bodies)
        leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in self.bodies]
        root, path = self._root(leaves), self._path(leaves, index)
        note = f"{self.origin}\n{size}\n{b64(root)}\n"
        signature = self.key.id[:4] + self.key.sign(note.encode())
        return {
            "logIndex": index,
            "treeSize": size,
            "rootHash": root.hex(),
            "hashes": [entry.hex() for entry in path],
            "checkpoint": f"{note}\n— rekor.test {b64(signature)}\n",
        }

    @classmethod
    def _root(cls, leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        half = 1 << (len(leaves) - 1).bit_length() - 1
        return hashlib.sha256(b"\1" + cls._root(leaves[:half]) + cls._root(leaves[half:])).digest()

    @classmethod
    def _path(cls, leaves: list[bytes], index: int) -> list[bytes]:
        if len(leaves) == 1:
            return []
        half = 1 << (len(leaves) - 1).bit_length() - 1
        if index < half:
            return [*cls._path(leaves[:half], index), cls._root(leaves[half:])]
        return [*cls._path(leaves[half:], index - half), cls._root(leaves[:half])]
