"""YAML as it is written here: block style, every string quoted as in JSON, so that no value can be taken for another.

Quoted so, JSON strings are YAML 1.2 double-quoted scalars with the same meaning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Value", "to_yaml"]

WORDS = ("true", "false", "null", "yes", "off")
"""Plain scalars that one version of YAML or another reads as something else than a string."""

Value = str | int | bool | None | Mapping[str, "Value"] | Sequence["Value"]


def to_yaml(value: Mapping[str, Value]) -> str:
    """Return the text of a document."""
    return "".join(f"{line}\n" for line in _mapping(value, ""))


def _mapping(value: Mapping[str, Value], indent: str) -> Iterator[str]:
    for key, entry in value.items():
        if _is_nested(entry):
            yield f"{indent}{_key(key)}:"
            yield from _nested(entry, f"{indent}  ")
        else:
            yield f"{indent}{_key(key)}: {_scalar(entry)}"


def _nested(value: Value, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _mapping(value, indent)
        return
    assert isinstance(value, Sequence)
    for entry in value:
        if isinstance(entry, Mapping) and entry:
            first, *others = _mapping(entry, f"{indent}  ")
            yield f"{indent}- {first.strip()}"
            yield from others
        else:
            yield f"{indent}- {_scalar(entry)}"


def _is_nested(value: Value) -> bool:
    return isinstance(value, Mapping | Sequence) and not isinstance(value, str) and bool(value)


def _scalar(value: Value) -> str:
    """Empty mappings and sequences included; characters that YAML does not print are escaped as it wants them."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in text)


def _key(key: str) -> str:
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{2,}", key) and key.lower() not in (
        "true",
        "false",
        "null",
        "yes",
        "off",
    )
    return key if plain else _scalar(key)
