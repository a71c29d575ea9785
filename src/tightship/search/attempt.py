"""One candidate: built, timed against the source, and sent on to the quality test or refused before it."""

from __future__ import annotations

from collections.abc import Sequence

from tightship.core.budget import Budget
from tightship.core.measurement import Measurement
from tightship.errors import TightshipError
from tightship.search import judge
from tightship.search.candidates import Proposal
from tightship.search.trial import Trial
from tightship.search.workshop import Workshop

__all__ = ["attempt", "attempt_all"]


def attempt(workshop: Workshop, proposal: Proposal, budget: Budget, source: Trial) -> Trial:
    """Build and time a candidate; it is `untested` if its quality is worth a look, else `refused` or `failed`."""
    try:
        built = workshop.build(proposal.recipe)
        timing = workshop.time(built, proposal.target)
    except TightshipError as error:
        return Trial(proposal, proposal.name, None, None, "failed", str(error))
    measured = Measurement(built.size_bytes, timing.latency, timing.ratio)
    refusal = judge.not_worth_it(measured, source.known, budget)
    return Trial(proposal, proposal.name, built, measured, "refused" if refusal else "untested", refusal or "")


def attempt_all(
    workshop: Workshop, proposals: Sequence[Proposal], budget: Budget, source: Trial, description: str
) -> tuple[Trial, ...]:
    """Attempt each proposal in turn, with progress."""
    trials = []
    with workshop.progress.step(description, len(proposals)) as advance:
        for proposal in proposals:
            trials.append(attempt(workshop, proposal, budget, source))
            advance(1)
    return tuple(trials)
