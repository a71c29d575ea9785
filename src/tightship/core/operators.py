"""A table of ONNX operators: one function per operator and version, its signature being the schema.

    @op("Gemm", since=7)
    def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0): ...

Tensors are positional, in ONNX's order; attributes are keyword-only, under ONNX's names and defaults. An entry answers
for its version of the operator and for all later ones up to the next entry, so that a version that only added types
costs nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

__all__ = ["Entry", "Operators"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """What answers for `domain::name` from version `since` on."""

    name: str
    domain: str
    since: int
    function: Callable[..., Any]

    @cached_property
    def signature(self) -> inspect.Signature | None:
        """The function's signature, or None for one written in C, which takes tensors by position and no attributes."""
        try:
            return inspect.signature(self.function)
        except ValueError:
            return None

    @cached_property
    def inputs(self) -> tuple[inspect.Parameter, ...]:
        """The parameters that take a node's inputs, by position; a last `*inputs` takes any number."""
        keyword = inspect.Parameter.KEYWORD_ONLY
        return tuple(entry for entry in self._parameters if entry.kind is not keyword)

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Names of the attributes that the function takes, and their defaults; required ones have `Parameter.empty`."""
        return {entry.name: entry.default for entry in self._parameters if entry.kind is entry.KEYWORD_ONLY}

    def unknown(self, attributes: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the given attributes that the function does not take."""
        return tuple(name for name in attributes if name not in self.attributes)

    def missing(self, attributes: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of required attributes that are not among the given ones."""
        required = (name for name, default in self.attributes.items() if default is inspect.Parameter.empty)
        return tuple(name for name in required if name not in attributes)

    def __call__(self, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        """Call the function on a node's inputs (None where one is left out) and attributes."""
        return self.function(*inputs, **attributes)

    @property
    def _parameters(self) -> tuple[inspect.Parameter, ...]:
        return tuple(self.signature.parameters.values()) if self.signature else ()


class Operators:
    """The entries of one bridge, by domain, name and version; filled while its modules are imported, then read."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], list[Entry]] = {}

    def op(self, name: str, since: int = 1, domain: str = "") -> Callable[[Function], Function]:
        """Return a decorator that enters a function for `domain::name` from version `since` on."""

        def enter(function: Function) -> Function:
            self.add(name, since, function, domain)
            return function

        return enter

    def rows(self, *rows: tuple[str, int, Callable[..., Any]], domain: str = "") -> None:
        """Enter functions that exist already: `("Abs", 6, torch.abs)`."""
        for name, since, function in rows:
            self.add(name, since, function, domain)

    def add(self, name: str, since: int, function: Callable[..., Any], domain: str = "") -> None:
        """Enter a function; two entries of one version are a programming error."""
        entries = self._entries.setdefault((domain, name), [])
        if any(entry.since == since for entry in entries):
            raise ValueError(f"{domain}::{name} version {since} is entered twice")
        entries.append(Entry(name, domain, since, function))
        entries.sort(key=lambda entry: entry.since)

    def find(self, name: str, opset: int, domain: str = "") -> Entry | None:
        """Return the newest entry not newer than `opset`, or None."""
        entries = self._entries.get((domain, name), [])
        return next((entry for entry in reversed(entries) if entry.since <= opset), None)

    def oldest(self, name: str, domain: str = "") -> Entry | None:
        """Return the entry of the earliest version, or None: what to say where a model is older than that."""
        return next(iter(self._entries.get((domain, name), [])), None)

    def names(self, domain: str = "") -> tuple[str, ...]:
        """Return the operators of a domain that have an entry, sorted."""
        return tuple(sorted(name for entered, name in self._entries if entered == domain))

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entries in self._entries.values() for entry in entries)
