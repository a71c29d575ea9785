"""What differs between two packages: facts of the manifest, metrics and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from tightship.package.manifest import Manifest
from tightship.package.package import Package
from tightship.package.processing import Processing

__all__ = ["Difference", "differences"]


@dataclass(frozen=True)
class Difference:
    """One thing that differs; the side that does not have it is None."""

    kind: Literal["manifest", "metric", "file", "package"]
    name: str
    first: str | float | None
    second: str | float | None


def differences(first: Package, second: Package) -> tuple[Difference, ...]:
    """Compare two open packages; nothing is returned where they hold the same."""
    one, other = first.manifest, second.manifest
    return (*_facts(one, other), *_metrics(one, other), *_files(one, other), *_outside(first, second))


def _facts(one: Manifest, other: Manifest) -> Iterator[Difference]:
    for field in fields(Manifest):
        if field.name not in ("files", "metrics"):
            before, after = _lines(getattr(one, field.name)), _lines(getattr(other, field.name))
            if before != after:
                left, right = (
                    "\n".join(line for line in mine if line not in its)
                    for mine, its in ((before, after), (after, before))
                )
                yield Difference("manifest", field.name, left or None, right or None)


def _metrics(one: Manifest, other: Manifest) -> Iterator[Difference]:
    for name in sorted({*one.metrics, *other.metrics}):
        before, after = one.metrics.get(name), other.metrics.get(name)
        if before != after:
            yield Difference("metric", name, before, after)


def _files(one: Manifest, other: Manifest) -> Iterator[Difference]:
    for name in sorted({*one.files, *other.files}):
        before, after = one.files.get(name), other.files.get(name)
        if before is None or after is None or before.sha256 != after.sha256:
            yield Difference("file", name, _record(before), _record(after))


def _outside(first: Package, second: Package) -> Iterator[Difference]:
    for name in ("sealed", "signed"):
        before, after = getattr(first.envelope, name), getattr(second.envelope, name)
        if before != after:
            yield Difference("package", name, "yes" if before else "no", "yes" if after else "no")


def _record(record: Any) -> str | None:
    return None if record is None else f"{record.sha256[:12]} {record.size:,} bytes"


def _lines(value: Any) -> list[str]:
    """A fact as lines of text: those that two packages have in common need not be shown."""
    if isinstance(value, str):
        return value.splitlines()
    if value is None:
        return []
    return list(value.told()) if isinstance(value, Processing) else [str(entry) for entry in value]
