"""Key pairs under test: one of each kind, made when first asked for, since RSA takes its time."""

from __future__ import annotations

from functools import cache

from tightship.package.kinds import KINDS, PrivateKey, new_key

RECEIVERS = [name for name, kind in KINDS.items() if kind.receives]
SIGNERS = [name for name, kind in KINDS.items() if kind.signs]


@cache
def key(kind: str, other: int = 0) -> PrivateKey:
    """The key pair of a kind; another one for every `other`."""
    return new_key(kind)
