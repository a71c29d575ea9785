"""Whether a new version can stand in for the old one: whoever asks the old one must be able to ask the new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tightship.core.specs import TensorSpec

__all__ = ["Interface", "misfit"]


class Interface(Protocol):
    """What a loaded version takes and gives."""

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...


def misfit(old: Interface, new: Interface) -> str:
    """Return why requests or answers of `old` would not do with `new`, or an empty text.

    Inputs: the same names and types, and each shape that the old one takes. Outputs: the same names and types.
    """
    taken = {spec.name: spec for spec in new.inputs}
    for spec in old.inputs:
        found = taken.pop(spec.name, None)
        if found is None:
            return f"it has no input {spec.name}"
        if found.dtype != spec.dtype or not _takes(found, spec):
            return f"its input is {found}, and requests come as {spec}"
    if taken:
        return f"it needs an input {next(iter(taken))} that requests do not have"
    given = {spec.name: spec.dtype for spec in new.outputs}
    expected = {spec.name: spec.dtype for spec in old.outputs}
    if given != expected:
        return f"its outputs are {_told(given)}, and {_told(expected)} are expected"
    return ""


def _takes(new: TensorSpec, old: TensorSpec) -> bool:
    """Whether every shape that `old` takes is taken by `new`."""
    return len(new.shape) == len(old.shape) and all(
        not isinstance(length, int) or length == known for length, known in zip(new.shape, old.shape, strict=True)
    )


def _told(outputs: dict[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in outputs.items())
