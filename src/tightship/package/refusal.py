"""The one answer of a seal that does not open, so that nobody learns which of key, passphrase or bytes was wrong."""

from __future__ import annotations

from tightship.errors import SealError

__all__ = ["REFUSAL", "refusal"]

REFUSAL = (
    "the seal does not open: wrong key or passphrase, or the sealed bytes were changed; which one is not told. "
    "`tightship keys show` gives the id of a key, `tightship inspect` the ids of a package's receivers"
)


def refusal() -> SealError:
    """The error to raise `from None`: its cause would tell what the message does not."""
    return SealError(REFUSAL)
