"""JSON from strangers: bounded in size, depth and number of values, without duplicate names, NaN or infinity."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

__all__ = ["MAX_BYTES", "MAX_CONTAINERS", "MAX_DEPTH", "MAX_VALUES", "load"]

MAX_BYTES = 16 << 20
MAX_DEPTH = 64
MAX_CONTAINERS = 1 << 17
MAX_VALUES = 1 << 20
"""How many brackets and commas there may be: two bytes of JSON can become a hundred of Python."""


def load(data: bytes, limit: int = MAX_BYTES) -> Any:
    """Parse JSON of at most `limit` bytes. Raises `ValueError` saying what is wrong with it."""
    if len(data) > limit:
        raise ValueError(f"{len(data)} bytes of JSON, expected at most {limit}")
    if data.count(b"{") + data.count(b"[") > MAX_CONTAINERS or data.count(b",") > MAX_VALUES:
        raise ValueError(f"more than {MAX_CONTAINERS} objects and lists, or {MAX_VALUES} values, in one JSON document")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels") from None
    _check_depth(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice[:80]!r} stands twice in one JSON object")
    return found


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _finite(word: str) -> float:
    value = float(word)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {word[:40]} is beyond a float64")
    return value


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels")
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
