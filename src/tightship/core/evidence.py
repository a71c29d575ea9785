"""What a conversion leaves beside its output: what was made of what, how, and whether it computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from tightship.core import atomic
from tightship.core.measurement import Agreement, Machine
from tightship.core.model import Step

__all__ = ["CheckedBy", "Evidence", "Verdict", "evidence_path"]

Verdict = Literal["equal", "within tolerance", "differs", "not checked"]
CheckedBy = Literal["running", "reading back", ""]


@dataclass(frozen=True)
class Evidence:
    """`reason` says what led to the verdict; `difference` names the first operator that differs, or says why
    none was found.

    `checked_by` tells a file that was run in the engine it is for from one that was read back and run as a graph, which
    shows what it means and not what its engine makes of it; it is empty where nothing was checked.
    `files` holds the SHA-256 of every file of the output by its path relative to the output's folder, and `attempts`
    what other ways were tried first and why they were not taken. `rtol` is relative to how an output varies over items.
    """

    source: str
    source_format: str
    source_digest: str
    source_engine: str
    output: str
    output_format: str
    output_engine: str
    steps: tuple[Step, ...]
    verdict: Verdict
    reason: str
    rtol: float
    data: str
    machine: Machine
    seconds: float
    size_bytes: int
    files: Mapping[str, str]
    agreement: Agreement | None = None
    checked_by: CheckedBy = "running"
    difference: str = ""
    attempts: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def proven(self) -> bool:
        """Whether the output was seen to compute what its source does."""
        return self.verdict in ("equal", "within tolerance")

    def write(self, output: Path) -> Path:
        """Write `NAME.evidence.json` beside the output and return its path."""
        path = evidence_path(output)
        atomic.write_bytes(path, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        return path


def evidence_path(output: Path) -> Path:
    """Where the evidence of an output lies."""
    return output.with_name(f"{output.name}.evidence.json")
