"""A digest of tensors that does not depend on their container: the same weights have the same digest in each.

SHA-256 over the tensors in the order of their names (as UTF-8): name, element type, shape (`2,3`) and the SHA-256 of
the bytes, each after its length in eight bytes (little-endian).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tightship.weights.tensors import Data, TensorType, Weights

__all__ = ["Tally", "digest"]


@dataclass(frozen=True)
class Tally:
    """Digests of the tensors that went by, by name."""

    types: Mapping[str, TensorType]
    digests: dict[str, bytes] = field(default_factory=dict)

    def watching(self, weights: Weights) -> Weights:
        """The same weights, each tensor of which is noted when it is loaded."""

        def load(name: str) -> Data:
            data = weights.load(name)
            self.digests[name] = hashlib.sha256(data).digest()
            return data

        return replace(weights, load=load)

    def differing(self, other: Tally) -> tuple[str, ...]:
        """Names of tensors that are not the same in both, sorted: in type, shape or any bit."""
        names = self.types.keys() | other.types.keys()
        return tuple(sorted(name for name in names if self._of(name) != other._of(name)))

    def hexdigest(self) -> str:
        """The digest of all, as hex."""
        whole = hashlib.sha256()
        for name in sorted(self.digests, key=_encoded):
            kind = self.types[name]
            shape = ",".join(map(str, kind.shape))
            for part in (_encoded(name), kind.dtype.encode(), shape.encode(), self.digests[name]):
                whole.update(len(part).to_bytes(8, "little") + part)
        return whole.hexdigest()

    def _of(self, name: str) -> tuple[TensorType | None, bytes | None]:
        return self.types.get(name), self.digests.get(name)


def digest(weights: Weights) -> Tally:
    """Load every tensor once and note it."""
    tally = Tally(weights.types)
    watched = tally.watching(weights)
    for name in weights:
        watched[name]
    return tally


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
