"""What other tools ask about inputs and outputs, and names that they allow."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tightship.core.specs import TensorSpec

__all__ = ["batch_name", "one_line", "plain_name"]

MAX_NAME = 63


def batch_name(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """Return the name that the free first axis of every input and output has, or None where they have no such axis.

    An unnamed axis (`?`) may be any; names that differ are other lengths, so that nothing can be put side by side.
    """
    firsts = [spec.shape[0] if spec.shape else 0 for spec in (*inputs, *outputs)]
    names = {dim for dim in firsts if dim != "?"}
    if any(isinstance(dim, int) for dim in firsts) or len(names) > 1:
        return None
    return str(next(iter(names), "?"))


def plain_name(name: str) -> str:
    """The name as an RFC 1035 label: lower-case letters, digits and hyphens, a letter first, at most 63 long."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_NAME].strip("-")
    return plain if plain[:1].isalpha() else f"model-{plain}"[:MAX_NAME].strip("-")


def one_line(text: str) -> str:
    """Text from a manifest on one line of a README, without what Markdown or a terminal would act upon."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", printable)[:2000]
