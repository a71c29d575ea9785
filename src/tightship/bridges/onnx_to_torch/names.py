"""Names of a graph as Python identifiers, so that the code of the module reads like the model."""

from __future__ import annotations

import builtins
import keyword
import re

__all__ = ["Names", "class_name", "identifier"]


def identifier(name: str, fallback: str = "value") -> str:
    """Return `name` with every run of other characters as one underscore: `/layer1/Conv` becomes `layer1_Conv`."""
    clean = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or fallback
    return f"_{clean}" if clean[0].isdigit() or keyword.iskeyword(clean) or hasattr(builtins, clean) else clean


def class_name(name: str) -> str:
    """Return `name` as the name of a class: `main_graph` becomes `MainGraph`."""
    words = [word for word in re.split(r"[\W_]+", name, flags=re.ASCII) if word]
    joined = "".join(word[:1].upper() + word[1:] for word in words) or "Graph"
    return f"Graph{joined}" if joined[0].isdigit() else joined


class Names:
    """Hands out identifiers, each once: `conv`, `conv_1`, `conv_2`."""

    def __init__(self, taken: frozenset[str] | set[str] = frozenset()) -> None:
        self._taken = set(taken)

    def new(self, name: str, fallback: str = "value") -> str:
        """Return an identifier for `name` that was not handed out before."""
        base = candidate = identifier(name, fallback)
        count = 0
        while candidate in self._taken:
            count += 1
            candidate = f"{base}_{count}"
        self._taken.add(candidate)
        return candidate
