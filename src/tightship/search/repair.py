"""Repair: where a candidate fails on quality alone, a better method, or float for its most sensitive operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil

from tightship.core.budget import Budget
from tightship.core.plan import Sensitivity
from tightship.core.recipe import Recipe
from tightship.errors import TightshipError
from tightship.search import judge
from tightship.search.attempt import attempt
from tightship.search.candidates import Proposal, better
from tightship.search.quality import Examiner
from tightship.search.sensitivity import sensitivity
from tightship.search.trial import Trial
from tightship.search.workshop import Workshop

__all__ = ["MAX_REPAIRS", "repair"]

MAX_REPAIRS = 4
"""Repairs tried in one search. The number is part of the family of tests, so it is fixed beforehand."""

RESTORED_FRACTIONS = (0.05, 0.1, 0.2, 0.4)


def repair(
    workshop: Workshop, examiner: Examiner, budget: Budget, source: Trial, trials: Sequence[Trial]
) -> tuple[tuple[Trial, ...], tuple[Sensitivity, ...]]:
    """Return all trials, those that repairing added among them, and the sensitivities that led it.

    Candidates are taken best first, and only while they would beat what is accepted already. Weights rounded to nearest
    are first rounded better; then operators go back, until the candidate passes or no longer pays.
    """
    known = tuple(trials)
    found: tuple[Sensitivity, ...] = ()
    n_left = MAX_REPAIRS
    for failing in _worth_repairing(trials, budget):
        if not n_left or not _beats_accepted(failing, known, budget):
            break
        for proposal in _better_methods(failing, workshop.calibration is not None):
            n_left -= 1
            known = examiner.judge((*known, attempt(workshop, proposal, budget, source)))
            failing = known[-1] if known[-1].quantizer is not None else failing
        if not failing.fails_on_quality_alone:
            continue
        try:
            found = sensitivity(workshop, failing)
        except TightshipError:  # without it there is no order to restore in; the candidate stays as it was judged
            continue
        for proposal in _restorations(failing, found):
            if not n_left:
                break
            n_left -= 1
            trial = attempt(workshop, proposal, budget, source)
            known = examiner.judge((*known, trial))
            if not known[-1].fails_on_quality_alone:
                break
    return known, found


def _better_methods(failing: Trial, calibrated: bool) -> Iterator[Proposal]:
    """Yield the same codes found by a method that takes longer: not worth it before they are known to pay."""
    passes = better(failing.quantizer) if failing.quantizer is not None and calibrated else ()
    if passes:
        yield Proposal(Recipe((*failing.proposal.recipe.passes[:-1], *passes)), failing.proposal.target)


def _worth_repairing(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    failing = {trial.name: trial for trial in trials if trial.fails_on_quality_alone and trial.quantizer is not None}
    ranked = judge.rank([trial.candidate for trial in failing.values()], budget)
    return [failing[candidate.name] for candidate in ranked]


def _beats_accepted(failing: Trial, trials: Sequence[Trial], budget: Budget) -> bool:
    rivals = [trial.candidate for trial in trials if trial.status == "accepted"]
    return judge.rank([failing.candidate, *rivals], budget)[0].name == failing.name


def _restorations(failing: Trial, found: Sequence[Sensitivity]) -> Iterator[Proposal]:
    quantizer = failing.quantizer
    if quantizer is None:
        return
    counts = sorted({ceil(fraction * len(found)) for fraction in RESTORED_FRACTIONS})
    for count in counts:
        if count < len(found):
            exclude = tuple(entry.operator for entry in found[:count])
            passes = (*failing.proposal.recipe.passes[:-1], replace(quantizer, exclude=exclude))
            yield Proposal(Recipe(passes), failing.proposal.target)
