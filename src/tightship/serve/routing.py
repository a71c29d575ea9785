"""Which version answers a request: the stable one, or for a growing share of requests, or of callers, the candidate.

A caller with a key stays with its version: the key's hash is its place between 0 and 1, and a share that grows only
ever moves callers from the stable version to the candidate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

__all__ = ["STICKY_HEADER", "Choice", "Routes", "place_of"]

STICKY_HEADER = b"x-sticky-key"

_BITS = 53  # of a float; more would round up to 1


@dataclass(frozen=True, slots=True)
class Choice:
    """The version that answers, and the one that is given the same request unseen, if any."""

    version: str
    shadow: str | None = None


@dataclass(frozen=True)
class Routes:
    """How one model's requests are shared out. `share` goes to the candidate, `shadow` is copied to the other version.

    Both are fractions. A caller's key is what the request's header `STICKY_HEADER` says, or with `by_key` the id of
    its API key. `salt` is which places the keys get, so that another rollout tries itself on other callers.
    """

    stable: str
    candidate: str | None = None
    share: float = 0.0
    shadow: float = 0.0
    salt: str = ""
    by_key: bool = False
    _plain: Choice = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_plain", Choice(self.stable))

    def choose(self, asked: str | None, sticky_key: bytes | None, draw: float) -> Choice:
        """Return who answers: the version asked for, else by the key, else by `draw`, a random number in [0, 1)."""
        if asked:
            return Choice(asked)
        if self.candidate is None:
            return self._plain
        place = draw if sticky_key is None else place_of(sticky_key, self.salt)
        taken, other = (self.candidate, self.stable) if place < self.share else (self.stable, self.candidate)
        # Another number than the one that chose, so that every caller's requests are copied alike.
        return Choice(taken, other if (draw * 4093.0) % 1.0 < self.shadow else None)


def place_of(sticky_key: bytes, salt: str) -> float:
    """Return where in [0, 1) a caller's key lies: its BLAKE2b, keyed by at most 64 bytes of `salt`."""
    digest = hashlib.blake2b(sticky_key, digest_size=8, key=salt.encode()[:64]).digest()
    return (int.from_bytes(digest, "big") >> (64 - _BITS)) / (1 << _BITS)
