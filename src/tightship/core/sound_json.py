"""JSON that nobody vouches for: headers, configurations and notes that lie in model files."""

from __future__ import annotations

import json
from typing import Any

from tightship.errors import InvalidModel

__all__ = ["parse_json"]


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises `InvalidModel` on NaN, keys that come twice, and depth."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"not sound JSON: {str(error)[:200]}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidModel("not sound JSON: a key comes twice")
    return found


def _no_constant(token: str) -> Any:
    raise InvalidModel(f"not sound JSON: {token} is no number")
