"""One candidate on its way through the search: the proposal, its file, what is known of it and the verdict so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tightship.core.measurement import Measurement
from tightship.core.passes import Quantizer
from tightship.core.plan import Candidate, Status
from tightship.search.candidates import Proposal
from tightship.search.workshop import Built

__all__ = ["Trial", "Verdict"]

Verdict = Status | Literal["untested"]
"""A status of the plan, or `untested`: worth it by size and time, quality not looked at yet."""


@dataclass(frozen=True)
class Trial:
    """`built` is None for the source and for what failed; `measured` is None for what failed."""

    proposal: Proposal
    name: str
    built: Built | None
    measured: Measurement | None
    status: Verdict
    reason: str

    @property
    def latency_ms(self) -> float:
        """Median latency, infinite where it was not measured."""
        latency = self.measured.latency if self.measured else None
        return latency.median_ms if latency else float("inf")

    @property
    def time_ratio(self) -> float:
        """Median time over the source's in the same interleaved run, infinite where it was not measured."""
        ratio = self.measured.ratio if self.measured else None
        return ratio.median if ratio else float("inf")

    @property
    def known(self) -> Measurement:
        """The measurement of a trial that has one; asking a failed trial is a programming error."""
        if self.measured is None:
            raise TypeError(f"{self.name} was not measured: {self.reason}")
        return self.measured

    @property
    def quantizer(self) -> Quantizer | None:
        """The last pass where it is a quantizer: the one that can leave operators out."""
        passes = self.proposal.recipe.passes
        return passes[-1] if passes and isinstance(passes[-1], Quantizer) else None

    @property
    def fails_on_quality_alone(self) -> bool:
        """Whether size and time are fine and only the quality test was not passed."""
        tested = self.measured is not None and self.measured.drop is not None
        return tested and self.status in ("refused", "undecided")

    @property
    def candidate(self) -> Candidate:
        """The record for the plan."""
        if self.status == "untested":
            raise TypeError(f"{self.name} has no verdict yet")
        steps = tuple(entry.step for entry in self.proposal.recipe.passes)
        return Candidate(self.name, steps, self.proposal.target, self.status, self.reason, self.measured)

    def judged(self, status: Verdict, reason: str, **measured: object) -> Trial:
        """Return the trial with a verdict and the measurements that led to it."""
        known = replace(self.measured, **measured) if self.measured else None  # type: ignore[arg-type]
        return replace(self, status=status, reason=reason, measured=known)
