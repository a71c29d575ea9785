"""Names of a graph as names of Keras layers."""

from __future__ import annotations

import re

__all__ = ["Names", "clean"]


def clean(name: str, fallback: str = "layer") -> str:
    """Return `name` with every run of characters that TensorFlow's scopes refuse as one underscore.

    `/layer1/Conv` becomes `layer1_Conv`.
    """
    text = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_") or fallback
    return text if text[0].isalnum() else f"_{text.lstrip('.-')}"


class Names:
    """Hands out layer names, each once: `conv`, `conv_1`, `conv_2`."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, name: str) -> str:
        """Return a name for `name` that was not handed out before; upper and lower case count as the same."""
        base = candidate = clean(name)
        count = 0
        while candidate.lower() in self._taken:
            count += 1
            candidate = f"{base}_{count}"
        self._taken.add(candidate.lower())
        return candidate
