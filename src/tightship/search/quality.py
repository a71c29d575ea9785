"""Quality verdicts of a whole family of candidates, corrected for its size.

Quality is measured on the file, engine, precision and processor that would be used, on items that calibrated nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tightship.core.budget import Budget
from tightship.core.measurement import DropTest
from tightship.errors import TightshipError
from tightship.measure import quality
from tightship.search import judge
from tightship.search.trial import Trial
from tightship.search.workshop import Workshop

__all__ = ["Examiner"]


@dataclass(frozen=True)
class Examiner:
    """Judges trials against the source. `n_family` is fixed before any quality is seen (Holm's correction)."""

    workshop: Workshop
    budget: Budget
    n_family: int

    def judge(self, trials: Sequence[Trial]) -> tuple[Trial, ...]:
        """Return the trials with verdicts. Earlier verdicts on quality are made anew for the family as it is now."""
        examined = [self._examine(trial) for trial in trials]
        tested = [trial for trial in examined if _awaits_test(trial)]
        tests = iter(self._drop_tests(tested))
        return tuple(self._verdict(trial, next(tests)) if _awaits_test(trial) else trial for trial in examined)

    def with_quality(self, trial: Trial) -> Trial:
        """Return the trial with its quality measured, whatever its verdict."""
        if trial.measured is None or trial.measured.quality is not None:
            return trial
        scores = self.workshop.score(trial.built, trial.proposal.target)
        value = quality.quality(scores, self.budget.confidence)
        return replace(trial, measured=replace(trial.measured, quality=value))

    def _examine(self, trial: Trial) -> Trial:
        if trial.status != "untested" or trial.built is None:
            return trial
        try:
            if not trial.proposal.lossless:
                return self.with_quality(trial)
            agreement = self.workshop.compare(trial.built, trial.proposal.target)
        except TightshipError as error:
            return trial.judged("failed", str(error))
        if agreement.agrees:
            reason = f"computes the same as the source: its largest error is {agreement.error:.2g} of the tolerance"
            return trial.judged("accepted", reason, agreement=agreement)
        return trial.judged("refused", judge.too_different(agreement), agreement=agreement)

    def _drop_tests(self, trials: Sequence[Trial]) -> Sequence[DropTest]:
        source = self.workshop.score(None, self.workshop.source.target)
        scores = [self.workshop.score(trial.built, trial.proposal.target) for trial in trials]
        return quality.test_family(
            source, scores, self.budget.max_drop, self.budget.confidence, max(self.n_family, len(scores))
        )

    def _verdict(self, trial: Trial, test: DropTest) -> Trial:
        status, reason = judge.quality_verdict(test)
        return trial.judged(status, reason, drop=test)


def _awaits_test(trial: Trial) -> bool:
    if trial.proposal.lossless or trial.built is None or trial.measured is None:
        return False
    return trial.status == "untested" or trial.measured.drop is not None
